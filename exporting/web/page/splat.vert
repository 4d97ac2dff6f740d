#version 300 es
// Four vertices are one splat, drawn as the smallest rectangle along its axes that holds alpha >= 1/255.
precision highp float;
precision highp int;
precision highp usampler2D;

const int WIDTH = 2048;

uniform usampler2D u_order, u_place, u_shape;
uniform vec2 u_size;
out vec2 v_offset;  // from the mean, in standard deviations along the axes
flat out vec4 v_color;

ivec2 at(int index) { return ivec2(index % WIDTH, index / WIDTH); }

void main() {
  ivec2 texel = at(int(texelFetch(u_order, at(gl_VertexID / 4), 0).x));
  uvec4 place = texelFetch(u_place, texel, 0), shape = texelFetch(u_shape, texel, 0);
  v_color = vec4(unpackHalf2x16(place.w), unpackHalf2x16(shape.w));
  vec3 covariance = uintBitsToFloat(shape.xyz);
  float middle = 0.5 * (covariance.x + covariance.z), half_difference = 0.5 * (covariance.x - covariance.z);
  float radius = length(vec2(half_difference, covariance.y));
  float angle = radius > 0.0 ? 0.5 * atan(covariance.y, half_difference) : 0.0;
  vec2 deviation = sqrt(vec2(middle + radius, max(middle - radius, 1e-6)));
  vec2 major = vec2(cos(angle), sin(angle)), minor = vec2(-major.y, major.x);

  float reach = sqrt(2.0 * log(max(255.0 * v_color.a, 1.0)));
  v_offset = reach * (vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - 1.0);
  vec2 pixel = uintBitsToFloat(place.xy) + v_offset.x * deviation.x * major + v_offset.y * deviation.y * minor;
  gl_Position = vec4(2.0 * pixel.x / u_size.x - 1.0, 1.0 - 2.0 * pixel.y / u_size.y, 0.0, 1.0);
}
