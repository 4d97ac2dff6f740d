#version 300 es
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
