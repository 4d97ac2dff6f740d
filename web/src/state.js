// Puts WebGL's state back as another library, which remembers it, left it.

const UNITS = 6;  // texture units that the core uses
const SWITCHES = ["BLEND", "CULL_FACE", "DEPTH_TEST", "SCISSOR_TEST", "STENCIL_TEST"];
const STORAGE = ["UNPACK_FLIP_Y_WEBGL", "UNPACK_PREMULTIPLY_ALPHA_WEBGL", "UNPACK_ALIGNMENT", "UNPACK_ROW_LENGTH",
                 "UNPACK_SKIP_ROWS", "UNPACK_SKIP_PIXELS", "PACK_ALIGNMENT"];

/** Run `action(target)` with plain state; target: {framebuffer, viewport} that were bound. Returns what it returns. */
export function isolated(gl, action) {
  const get = (name) => gl.getParameter(gl[name]);
  const framebuffer = get("DRAW_FRAMEBUFFER_BINDING"), reading = get("READ_FRAMEBUFFER_BINDING");
  const viewport = get("VIEWPORT"), program = get("CURRENT_PROGRAM"), array = get("VERTEX_ARRAY_BINDING");
  const packing = get("PIXEL_PACK_BUFFER_BINDING"), unpacking = get("PIXEL_UNPACK_BUFFER_BINDING");
  const switches = SWITCHES.map((name) => gl.isEnabled(gl[name])), storage = STORAGE.map(get);
  const factors = ["BLEND_SRC_RGB", "BLEND_DST_RGB", "BLEND_SRC_ALPHA", "BLEND_DST_ALPHA"].map(get);
  const equations = ["BLEND_EQUATION_RGB", "BLEND_EQUATION_ALPHA"].map(get);
  const depthMask = get("DEPTH_WRITEMASK"), depthFunc = get("DEPTH_FUNC"), colorMask = get("COLOR_WRITEMASK");
  const unit = get("ACTIVE_TEXTURE"), textures = [];
  for (let i = 0; i < UNITS; ++i) {
    gl.activeTexture(gl.TEXTURE0 + i);
    textures.push([get("TEXTURE_BINDING_2D"), get("SAMPLER_BINDING")]);
    gl.bindSampler(i, null);
  }
  try {
    SWITCHES.forEach((name) => gl.disable(gl[name]));
    STORAGE.forEach((name, i) => gl.pixelStorei(gl[name], typeof storage[i] === "boolean" ? false
      : name.endsWith("ALIGNMENT") ? 4 : 0));
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, null);
    gl.colorMask(true, true, true, true);
    return action({ framebuffer, viewport });
  } finally {
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, framebuffer);
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, reading);
    gl.viewport(...viewport);
    gl.useProgram(program);
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, packing);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, unpacking);
    SWITCHES.forEach((name, i) => (switches[i] ? gl.enable(gl[name]) : gl.disable(gl[name])));
    STORAGE.forEach((name, i) => gl.pixelStorei(gl[name], storage[i]));
    gl.blendFuncSeparate(...factors);
    gl.blendEquationSeparate(...equations);
    gl.depthMask(depthMask);
    gl.depthFunc(depthFunc);
    gl.colorMask(...colorMask);
    textures.forEach(([texture, sampler], i) => {
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.bindSampler(i, sampler);
    });
    gl.activeTexture(unit);
  }
}
