"use strict";
// Three passes a picture: pose every Gaussian (one fragment each), read the depths back and sort, draw the splats from
// back to front, and put the sum over the background.

const TABLE_WIDTH = 2048;
const TEXEL_WORDS = 4;

class Renderer {
  /** Throws an Error with a message for the visitor where the browser cannot do it. */
  constructor(canvas, meta, tables) {
    const options = { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true };
    const gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("This page needs WebGL 2, which this browser does not offer or has switched off.");
    this.gl = gl;
    this.canvas = canvas;
    this.fence = null;
    this.meta = meta;
    this.fine = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.poseProgram = new Program(gl, "pose.vert", "pose.frag");
    this.splatProgram = new Program(gl, "splat.vert", "splat.frag");
    this.finishProgram = new Program(gl, "pose.vert", "finish.frag");
    this.gaussians = integerTexture(gl, tables.gaussians);
    this.pairs = integerTexture(gl, tables.pairs);
    this.faces = integerTexture(gl, tables.faces);
    this.codes = new FloatTexture(gl, meta.driven);
    this.surface = new FloatTexture(gl, 2 * meta.vertices);
    this.turns = new FloatTexture(gl, meta.triangles);
    this.createTargets();
    this.sorter = new DepthSorter(meta.gaussians, TABLE_WIDTH * this.rows);
  }

  createTargets() {
    const { gl, meta } = this, rows = Math.ceil(meta.gaussians / TABLE_WIDTH);
    this.rows = rows;
    this.place = createTexture(gl, gl.RGBA32UI, TABLE_WIDTH, rows);
    this.shape = createTexture(gl, gl.RGBA32UI, TABLE_WIDTH, rows);
    this.poseTarget = createFramebuffer(gl, [this.place, this.shape]);
    this.placed = new Uint32Array(TABLE_WIDTH * rows * TEXEL_WORDS);
    this.pixels = gl.createBuffer();
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.pixels);
    gl.bufferData(gl.PIXEL_PACK_BUFFER, this.placed.byteLength, gl.STREAM_READ);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    this.empty = gl.createVertexArray();
    this.order = createTexture(gl, gl.R32UI, TABLE_WIDTH, rows);
    this.quads = createQuads(gl, meta.gaussians);
    this.pictureSize = [0, 0];
  }

  /** Pose for a picture of `size` pixels: `posed` from Head.pose, `view` from Camera.view. */
  pose(posed, view, size) {
    const { gl, meta, poseProgram: program } = this;
    this.codes.upload(posed.codes);
    this.surface.upload(posed.surface);
    this.turns.upload(posed.turns);
    this.size = size;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.poseTarget);
    gl.viewport(0, 0, TABLE_WIDTH, this.rows);
    gl.disable(gl.BLEND);
    program.use();
    program.textures({ u_gaussians: this.gaussians, u_pairs: this.pairs, u_faces: this.faces,
                       u_codes: this.codes.texture, u_surface: this.surface.texture, u_turns: this.turns.texture });
    gl.uniform4fv(program.at("u_bones"), posed.bones);
    gl.uniform1i(program.at("u_count"), meta.gaussians);
    gl.uniform1i(program.at("u_vertices"), meta.vertices);
    gl.uniform1i(program.at("u_degree"), meta.degree);
    gl.uniformMatrix3fv(program.at("u_rotation"), true, view.R);
    gl.uniform3fv(program.at("u_translation"), view.t);
    gl.uniform3fv(program.at("u_eye"), view.eye);
    gl.uniform3fv(program.at("u_k0"), view.k0);
    gl.uniform3fv(program.at("u_k1"), view.k1);
    gl.uniform2fv(program.at("u_size"), this.size);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Ask for the depths of what was posed; `ready` says when they are there, `collect` takes them. */
  request() {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.poseTarget);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.pixels);
    gl.readPixels(0, 0, TABLE_WIDTH, this.rows, gl.RGBA_INTEGER, gl.UNSIGNED_INT, 0);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
  }

  get waiting() {
    return this.fence !== null;
  }

  ready() {
    return this.gl.getSyncParameter(this.fence, this.gl.SYNC_STATUS) === this.gl.SIGNALED;
  }

  collect() {
    const { gl } = this;
    gl.deleteSync(this.fence);
    this.fence = null;
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.pixels);
    gl.getBufferSubData(gl.PIXEL_PACK_BUFFER, 0, this.placed);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
  }

  /** Ask and wait: for a single picture. */
  read() {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.poseTarget);
    gl.readPixels(0, 0, TABLE_WIDTH, this.rows, gl.RGBA_INTEGER, gl.UNSIGNED_INT, this.placed);
  }

  /** Sort and draw what was posed and read, over a colour [r, g, b]; returns the number of splats drawn. */
  draw(background) {
    const { canvas, size } = this;
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const count = this.sorter.backToFront(this.placed);
    this.drawSplats(this.sorter.order, count);
    this.finish(background);
    return count;
  }

  drawSplats(order, count) {
    const { gl, splatProgram: program } = this;
    this.fitPicture();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.pictureTarget);
    gl.viewport(0, 0, ...this.size);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    program.use();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, TABLE_WIDTH, this.rows, gl.RED_INTEGER, gl.UNSIGNED_INT, order);
    program.textures({ u_order: this.order, u_place: this.place, u_shape: this.shape });
    gl.uniform2fv(program.at("u_size"), this.size);
    gl.bindVertexArray(this.quads);
    gl.drawElements(gl.TRIANGLES, 6 * count, gl.UNSIGNED_INT, 0);
  }

  finish(background) {
    const { gl, finishProgram: program } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, ...this.size);
    gl.disable(gl.BLEND);
    program.use();
    program.textures({ u_picture: this.picture });
    gl.uniform3fv(program.at("u_background"), background);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** The sum of the splats needs halves where the browser has them: in 8 bits, many thin layers round to nothing. */
  fitPicture() {
    const { gl, size } = this;
    if (size[0] === this.pictureSize[0] && size[1] === this.pictureSize[1]) return;
    gl.deleteTexture(this.picture || null);
    gl.deleteFramebuffer(this.pictureTarget || null);
    this.picture = createTexture(gl, this.fine ? gl.RGBA16F : gl.RGBA8, ...size);
    this.pictureTarget = createFramebuffer(gl, [this.picture]);
    this.pictureSize = size;
  }
}
