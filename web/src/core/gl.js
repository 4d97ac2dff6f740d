// Small helpers around WebGL 2: programs, textures whose rows are 2048 texels wide, framebuffers.

export const TABLE_WIDTH = 2048;
export const TEXEL_WORDS = 4;

export class Program {
  /** Sources without "#version"; `defines` are names that are defined in both. */
  constructor(gl, vertex, fragment, defines = []) {
    this.gl = gl;
    this.program = gl.createProgram();
    this.places = {};
    const head = ["#version 300 es", ...defines.map((name) => `#define ${name}`), ""].join("\n");
    const shaders = [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]].map(([kind, source]) => {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, head + source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
      return shader;
    });
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) {
      const logs = [...shaders.map((shader) => gl.getShaderInfoLog(shader)), gl.getProgramInfoLog(this.program)];
      throw new Error(`This graphics card refuses a shader: ${logs.filter(Boolean).join(" ")}`);
    }
    shaders.forEach((shader) => gl.deleteShader(shader));
  }

  use() {
    this.gl.useProgram(this.program);
  }

  at(uniform) {
    if (!(uniform in this.places)) this.places[uniform] = this.gl.getUniformLocation(this.program, uniform);
    return this.places[uniform];
  }

  /** Bind {uniform: texture}. */
  textures(named) {
    const { gl } = this;
    Object.entries(named).forEach(([uniform, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(this.at(uniform), unit);
    });
  }
}

export function createTexture(gl, format, width, height) {
  const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  if (height > limit || width > limit) {
    throw new Error(`This avatar needs a texture of ${width} x ${height}; this graphics card allows ${limit}.`);
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, Math.max(height, 1));
  for (const parameter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
    gl.texParameteri(gl.TEXTURE_2D, parameter, gl.NEAREST);
  }
  return texture;
}

/** A texture of four words a texel that holds `words`; the last row is filled up with zeros. */
export function integerTexture(gl, words) {
  const row = TABLE_WIDTH * TEXEL_WORDS, rows = Math.max(1, Math.ceil(words.length / row));
  const texture = createTexture(gl, gl.RGBA32UI, TABLE_WIDTH, rows);
  const full = Math.floor(words.length / row);
  const send = (y, height, part) =>
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, y, TABLE_WIDTH, height, gl.RGBA_INTEGER, gl.UNSIGNED_INT, part);
  if (full) send(0, full, words.subarray(0, full * row));
  if (full < rows) {
    const last = new Uint32Array(row);
    last.set(words.subarray(full * row));
    send(full, 1, last);
  }
  return texture;
}

/** A texture of `count` texels of four floats, sent again for every pose. */
export class FloatTexture {
  constructor(gl, count) {
    this.gl = gl;
    this.rows = Math.max(1, Math.ceil(count / TABLE_WIDTH));
    this.texture = createTexture(gl, gl.RGBA32F, TABLE_WIDTH, this.rows);
    this.padded = new Float32Array(4 * TABLE_WIDTH * this.rows);
  }

  dispose() {
    this.gl.deleteTexture(this.texture);
  }

  upload(values) {
    const { gl } = this;
    this.padded.set(values);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, TABLE_WIDTH, this.rows, gl.RGBA, gl.FLOAT, this.padded);
  }
}

export function createFramebuffer(gl, textures) {
  const framebuffer = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
  const attachments = textures.map((texture, i) => {
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
    return gl.COLOR_ATTACHMENT0 + i;
  });
  gl.drawBuffers(attachments);
  if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
    throw new Error("This graphics card refuses the render target that the avatar needs.");
  }
  return framebuffer;
}

/** {array, buffer}: a vertex array whose indices make two triangles of vertices 4 n to 4 n + 3, for n below `count`. */
export function createQuads(gl, count) {
  const indices = new Uint32Array(6 * count);
  for (let n = 0; n < count; ++n) [0, 1, 2, 2, 1, 3].forEach((corner, i) => { indices[6 * n + i] = 4 * n + corner; });
  const array = gl.createVertexArray(), buffer = gl.createBuffer();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return { array, buffer };
}
