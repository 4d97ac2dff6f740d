// The GLSL sources; "#version 300 es" and the names that select a variant are put before them.

export const COVER_VERTEX = /* glsl */ `
// One triangle that covers the target: the passes that follow work on texels.
void main() {
  vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}
`;

export const POSE_FRAGMENT = /* glsl */ `
// One fragment is one Gaussian: blends its row, moves it with the head, colours it and projects it; with SPATIAL, it is
// left in space for other renderers. The mathematics is that of blend_pose_color and rasterize in docs/architecture.md;
// the layout of the tables is documented in docs/web.md and written by assemble.js.
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp usampler2D;

const int WIDTH = 2048;         // texels in a row of every table
const int GAUSSIAN_TEXELS = 10;
const int PAIR_TEXELS = 5;
const float MEAN_UNIT = 1.0 / 1024.0;  // metres: position differences are kept away from half precision's subnormals
const float DILATION = 0.3;
const float ALPHA_MIN = 1.0 / 255.0;
const float JACOBIAN_LIMIT = 1.3;

uniform usampler2D u_gaussians, u_pairs, u_faces;
uniform sampler2D u_codes;    // x: expression codes, limited to what training saw
uniform sampler2D u_surface;  // vertices: offsets before skinning; then, from u_vertices on, after skinning
uniform sampler2D u_turns;    // triangles: quaternion difference (w, x, y, z)
uniform vec4 u_bones[24];     // eight bones, three rows each
uniform int u_count, u_vertices, u_degree;
uniform mat3 u_rotation;      // world to camera
uniform vec3 u_translation, u_eye, u_k0, u_k1;
uniform vec2 u_size;
uniform float u_near;

// Pixel x, y, camera depth (0: not drawn), red and green; SPATIAL: place, two log-scales.
layout(location = 0) out uvec4 o_place;
// Covariance xx, xy, yy, blue and opacity; SPATIAL: third log-scale, opacity, quaternion (x, y, z), red, green, blue.
layout(location = 1) out uvec4 o_shape;

ivec2 at(int index) { return ivec2(index % WIDTH, index / WIDTH); }

uvec4 gaussian(int n, int texel) { return texelFetch(u_gaussians, at(n * GAUSSIAN_TEXELS + texel), 0); }

uvec4 pair(int p, int texel) { return texelFetch(u_pairs, at(p * PAIR_TEXELS + texel), 0); }

struct Row {
  vec3 mean, logScale;
  vec4 quat;  // (w, x, y, z)
  float logit;
};

float code(uint word) { return texelFetch(u_codes, at(int(word >> 16)), 0).x; }

void addPair(inout Row row, int p) {
  uvec4 a = pair(p, 0), b = pair(p, 1);
  float beta = code(b.y);
  vec2 h0 = unpackHalf2x16(a.x), h1 = unpackHalf2x16(a.y), h2 = unpackHalf2x16(a.z), h3 = unpackHalf2x16(a.w);
  vec2 h4 = unpackHalf2x16(b.x), h5 = unpackHalf2x16(b.y & 0xffffu);
  row.mean += beta * MEAN_UNIT * vec3(h0, h1.x);
  row.quat += beta * vec4(h1.y, h2, h3.x);
  row.logScale += beta * vec3(h3.y, h4);
  row.logit += beta * h5.x;
}

vec3 surface(uvec3 corners, vec3 weights, int first) {
  return weights.x * texelFetch(u_surface, at(first + int(corners.x)), 0).xyz +
         weights.y * texelFetch(u_surface, at(first + int(corners.y)), 0).xyz +
         weights.z * texelFetch(u_surface, at(first + int(corners.z)), 0).xyz;
}

struct Bones {
  vec4 r0, r1, r2;  // rows of the blended transform
};

void addBones(inout Bones sum, uint packed, int bone) {
  vec2 weight = unpackUnorm2x16(packed);
  sum.r0 += weight.x * u_bones[3 * bone] + weight.y * u_bones[3 * bone + 3];
  sum.r1 += weight.x * u_bones[3 * bone + 1] + weight.y * u_bones[3 * bone + 4];
  sum.r2 += weight.x * u_bones[3 * bone + 2] + weight.y * u_bones[3 * bone + 5];
}

Bones bonesOf(uvec4 packed) {
  Bones sum = Bones(vec4(0.0), vec4(0.0), vec4(0.0));
  addBones(sum, packed.x, 0);
  addBones(sum, packed.y, 2);
  addBones(sum, packed.z, 4);
  addBones(sum, packed.w, 6);
  return sum;
}

mat3 polar3(mat3 m) {
  for (int i = 0; i < 3; ++i) m = 0.5 * (m + transpose(inverse(m)));
  return m;
}

mat3 matrixOf(vec4 q) {  // columns
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
              2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
              2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

// Y_0 to Y_15 in four columns, zero above the degree in use; basis and signs of 3D Gaussian Splatting.
mat4 basisOf(vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  float one = u_degree > 0 ? 1.0 : 0.0, two = u_degree > 1 ? 1.0 : 0.0, three = u_degree > 2 ? 1.0 : 0.0;
  return mat4(
    vec4(0.28209479177387814, -0.4886025119029199 * one * y, 0.4886025119029199 * one * z,
         -0.4886025119029199 * one * x),
    two * vec4(1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2.0 * zz - xx - yy),
               -1.0925484305920792 * x * z),
    vec4(0.5462742152960396 * two * (xx - yy), -0.5900435899266435 * three * y * (3.0 * xx - yy),
         2.890611442640554 * three * x * y * z, -0.4570457994644658 * three * y * (4.0 * zz - xx - yy)),
    three * vec4(0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
                 -0.4570457994644658 * x * (4.0 * zz - xx - yy), 1.445305721320277 * z * (xx - yy),
                 -0.5900435899266435 * x * (xx - 3.0 * yy)));
}

vec4 halves(uint low, uint high) { return vec4(unpackHalf2x16(low), unpackHalf2x16(high)); }

vec4 bytes(uint word) { return vec4(ivec4(word << 24, word << 16, word << 8, word) >> 24); }

float neutralChannel(int n, int channel, mat4 basis) {
  uvec4 a = gaussian(n, 4 + 2 * channel), b = gaussian(n, 5 + 2 * channel);
  return dot(basis[0], halves(a.x, a.y)) + dot(basis[1], halves(a.z, a.w)) +
         dot(basis[2], halves(b.x, b.y)) + dot(basis[3], halves(b.z, b.w));
}

float pairChannel(int p, int channel, mat4 basis) {
  uvec4 words = pair(p, 2 + channel);
  return dot(basis[0], bytes(words.x)) + dot(basis[1], bytes(words.y)) +
         dot(basis[2], bytes(words.z)) + dot(basis[3], bytes(words.w));
}

vec3 colorOf(int n, int first, int last, vec3 direction) {
  mat4 basis = basisOf(direction);
  vec3 sum = vec3(0.5) + vec3(neutralChannel(n, 0, basis), neutralChannel(n, 1, basis), neutralChannel(n, 2, basis));
  for (int p = first; p < last; ++p) {
    uvec4 head = pair(p, 1);
    float step = code(head.y) * uintBitsToFloat(head.z);
    sum += step * vec3(pairChannel(p, 0, basis), pairChannel(p, 1, basis), pairChannel(p, 2, basis));
  }
  return max(sum, 0.0);
}

bool finite(float x) { return x - x == 0.0; }

#ifdef SPATIAL
// (x, y, z), signed so that the w left out is positive.
vec3 shortQuaternion(mat3 m) {
  float w = 1.0 + m[0][0] + m[1][1] + m[2][2], x = 1.0 + m[0][0] - m[1][1] - m[2][2];
  float y = 1.0 - m[0][0] + m[1][1] - m[2][2], z = 1.0 - m[0][0] - m[1][1] + m[2][2];
  vec3 a = vec3(m[1][2] - m[2][1], m[2][0] - m[0][2], m[0][1] - m[1][0]);
  vec3 b = vec3(m[0][1] + m[1][0], m[2][0] + m[0][2], m[1][2] + m[2][1]);
  if (w >= max(x, max(y, z))) return a / (2.0 * sqrt(w));
  if (x >= max(y, z)) return (a.x < 0.0 ? -0.5 : 0.5) * vec3(x, b.x, b.y) / sqrt(x);
  if (y >= z) return (a.y < 0.0 ? -0.5 : 0.5) * vec3(b.x, y, b.z) / sqrt(y);
  return (a.z < 0.0 ? -0.5 : 0.5) * vec3(b.y, b.z, z) / sqrt(z);
}

void write(vec3 y, mat3 turn, vec3 logScale, float opacity, vec3 color) {
  vec3 q = shortQuaternion(turn);
  o_place = uvec4(floatBitsToUint(y), packHalf2x16(logScale.xy));
  o_shape = uvec4(packHalf2x16(vec2(logScale.z, opacity)), packHalf2x16(q.xy), packHalf2x16(vec2(q.z, color.r)),
                  packHalf2x16(color.gb));
}
#else
void write(vec3 y, mat3 turn, vec3 logScale, float opacity, vec3 color) {
  vec3 scale = exp(logScale);
  mat3 axes = mat3(turn[0] * scale.x, turn[1] * scale.y, turn[2] * scale.z);
  vec3 p = u_rotation * y + u_translation;
  vec2 ratio = p.xy / p.z;
  vec2 limit = JACOBIAN_LIMIT * u_size / (2.0 * vec2(u_k0.x, u_k1.y));
  vec2 held = clamp(ratio, -limit, limit);
  vec2 place = vec2(dot(u_k0, vec3(ratio, 1.0)), dot(u_k1, vec3(ratio, 1.0)));
  vec3 m0 = (vec3(u_k0.xy, -dot(u_k0.xy, held)) / p.z) * u_rotation * axes;
  vec3 m1 = (vec3(u_k1.xy, -dot(u_k1.xy, held)) / p.z) * u_rotation * axes;
  vec3 covariance = vec3(dot(m0, m0) + DILATION, dot(m0, m1), dot(m1, m1) + DILATION);
  vec2 reach = sqrt(2.0 * log(max(opacity / ALPHA_MIN, 1.0)) * covariance.xz);
  bool inside = all(greaterThan(place + reach, vec2(0.0))) && all(lessThan(place - reach, u_size));
  float sum = place.x + place.y + dot(covariance, vec3(1.0)) + dot(color, vec3(1.0));
  bool drawn = p.z > u_near && opacity >= ALPHA_MIN && inside && finite(sum);
  o_place = uvec4(floatBitsToUint(place), drawn ? floatBitsToUint(p.z) : 0u, packHalf2x16(color.rg));
  o_shape = uvec4(floatBitsToUint(covariance), packHalf2x16(vec2(color.b, opacity)));
}
#endif

void main() {
  int n = int(gl_FragCoord.y) * WIDTH + int(gl_FragCoord.x);
  if (n >= u_count) {
    o_place = o_shape = uvec4(0u);
    return;
  }
  uvec4 t0 = gaussian(n, 0), t1 = gaussian(n, 1), t2 = gaussian(n, 2);
  vec4 shape = uintBitsToFloat(t1);
  Row row = Row(uintBitsToFloat(t0.xyz), shape.xyz, vec4(unpackHalf2x16(t2.x), unpackHalf2x16(t2.y)), shape.w);
  int first = int(t2.w), last = first + int(t0.w >> 24), triangle = int(t0.w & 0xffffffu) - 1;
  for (int p = first; p < last; ++p) addPair(row, p);

  vec3 after = vec3(0.0);
  if (triangle >= 0) {
    vec2 two = unpackUnorm2x16(t2.z);
    vec3 weights = vec3(two, 1.0 - two.x - two.y);
    uvec3 corners = texelFetch(u_faces, at(triangle), 0).xyz;
    row.mean += surface(corners, weights, 0);
    row.quat += texelFetch(u_turns, at(triangle), 0);
    after = surface(corners, weights, u_vertices);
  }
  Bones bones = bonesOf(gaussian(n, 3));
  vec4 x = vec4(row.mean, 1.0);
  vec3 y = vec3(dot(bones.r0, x), dot(bones.r1, x), dot(bones.r2, x)) + after;
  mat3 turn = polar3(transpose(mat3(bones.r0.xyz, bones.r1.xyz, bones.r2.xyz)));
  vec3 color = colorOf(n, first, last, normalize(y - u_eye) * turn);
  write(y, turn * matrixOf(normalize(row.quat)), row.logScale, 1.0 / (1.0 + exp(-row.logit)), color);
}
`;

export const SPLAT_VERTEX = /* glsl */ `
// Four vertices are one splat, drawn as the smallest rectangle along its axes that holds alpha >= 1/255.
precision highp float;
precision highp int;
precision highp usampler2D;

const int WIDTH = 2048;

uniform usampler2D u_order, u_place, u_shape;
uniform vec2 u_size;
uniform vec2 u_depth;     // normalised depth of a camera depth d: u_depth.x + u_depth.y / d
uniform bool u_linear;    // whether the target holds linear light
out vec2 v_offset;  // from the mean, in standard deviations along the axes
flat out vec4 v_color;

ivec2 at(int index) { return ivec2(index % WIDTH, index / WIDTH); }

// sRGB (IEC 61966-2-1)
vec3 linear(vec3 c) {
  return mix(c / 12.92, pow((c + 0.055) / 1.055, vec3(2.4)), greaterThan(c, vec3(0.04045)));
}

void main() {
  ivec2 texel = at(int(texelFetch(u_order, at(gl_VertexID / 4), 0).x));
  uvec4 place = texelFetch(u_place, texel, 0), shape = texelFetch(u_shape, texel, 0);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  if (place.z == 0u) return;  // drawn when the order was made, but not from here
  v_color = vec4(unpackHalf2x16(place.w), unpackHalf2x16(shape.w));
  if (u_linear) v_color.rgb = linear(v_color.rgb);
  vec3 covariance = uintBitsToFloat(shape.xyz);
  float middle = 0.5 * (covariance.x + covariance.z), half_difference = 0.5 * (covariance.x - covariance.z);
  float radius = length(vec2(half_difference, covariance.y));
  float angle = radius > 0.0 ? 0.5 * atan(covariance.y, half_difference) : 0.0;
  vec2 deviation = sqrt(vec2(middle + radius, max(middle - radius, 1e-6)));
  vec2 major = vec2(cos(angle), sin(angle)), minor = vec2(-major.y, major.x);

  float reach = sqrt(2.0 * log(max(255.0 * v_color.a, 1.0)));
  v_offset = reach * (vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - 1.0);
  vec2 pixel = uintBitsToFloat(place.xy) + v_offset.x * deviation.x * major + v_offset.y * deviation.y * minor;
  float depth = u_depth.x + u_depth.y / uintBitsToFloat(place.z);
  gl_Position = vec4(2.0 * pixel.x / u_size.x - 1.0, 1.0 - 2.0 * pixel.y / u_size.y, depth, 1.0);
}
`;

export const SPLAT_FRAGMENT = /* glsl */ `
// Premultiplied, for blending from back to front.
precision highp float;

in vec2 v_offset;
flat in vec4 v_color;
out vec4 o_color;

void main() {
  float alpha = min(v_color.a * exp(-0.5 * dot(v_offset, v_offset)), 0.99);
  if (alpha < 1.0 / 255.0) discard;
  o_color = vec4(v_color.rgb * alpha, alpha);
}
`;

export const FINISH_FRAGMENT = /* glsl */ `
// The sum of the splats over the background colour.
precision highp float;
precision highp sampler2D;

uniform sampler2D u_picture;
uniform vec3 u_background;
out vec4 o_color;

void main() {
  vec4 picture = texelFetch(u_picture, ivec2(gl_FragCoord.xy), 0);
  o_color = vec4(picture.rgb + (1.0 - picture.a) * u_background, 1.0);
}
`;
