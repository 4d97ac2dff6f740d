#version 300 es
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
