"use strict";
// A canvas with the avatar on it: the splats are summed in a target of half floats, and put over the background.

const NEAR_PLANE = 0.2;  // metres, as in our rasterizer

class Renderer {
  /** Throws an Error with a message for the visitor where the browser cannot do it. */
  constructor(canvas, data) {
    const options = { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true };
    const gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("This page needs WebGL 2, which this browser does not offer or has switched off.");
    this.gl = gl;
    this.canvas = canvas;
    this.fine = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.splats = new Splats(gl, data);
    this.finishProgram = new Program(gl, COVER_VERTEX, FINISH_FRAGMENT);
    this.empty = gl.createVertexArray();
    this.pictureSize = [0, 0];
  }

  /** Pose for a picture of `size` pixels: `posed` from Head.pose, `view` from Camera.view. */
  pose(posed, view, size) {
    this.size = size;
    this.splats.pose(posed, { ...view, size, near: NEAR_PLANE });
  }

  get waiting() {
    return this.splats.waiting;
  }

  /** Draw what was posed and sorted, over a colour [r, g, b]; returns the number of splats drawn. */
  draw(background) {
    const { canvas, gl, size } = this;
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    this.fitPicture();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.pictureTarget);
    gl.viewport(0, 0, ...size);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const count = this.splats.draw();
    this.finish(background);
    return count;
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
