// An avatar's Gaussians on the GPU: posed one fragment each, their depths read back and sorted, drawn from back to
// front into whatever framebuffer is bound. Knows WebGL 2 and nothing else.

import { FloatTexture, Program, TABLE_WIDTH, TEXEL_WORDS } from "./gl.js";
import { createFramebuffer, createQuads, createTexture, integerTexture } from "./gl.js";
import { COVER_VERTEX, POSE_FRAGMENT, SPLAT_FRAGMENT, SPLAT_VERTEX } from "./shaders.js";
import { DepthSorter } from "./sort.js";

const SHARED = new WeakMap();  // context -> Map of AvatarData -> SharedTables

/** What all instances of one avatar in one context have in common. */
class SharedTables {
  constructor(gl, data) {
    Object.assign(this, { gl, data, users: 0, revision: -1, programs: {} });
    this.quads = createQuads(gl, data.meta.gaussians);
    this.empty = gl.createVertexArray();
    this.faces = integerTexture(gl, padded(data.tables.faces));
  }

  /** The tables of `data`, counted; `release` gives them back. */
  static of(gl, data) {
    if (!SHARED.has(gl)) SHARED.set(gl, new Map());
    const found = SHARED.get(gl);
    if (!found.has(data)) found.set(data, new SharedTables(gl, data));
    const shared = found.get(data);
    shared.users += 1;
    return shared;
  }

  release() {
    const { gl } = this;
    this.users -= 1;
    if (this.users) return;
    SHARED.get(gl).delete(this.data);
    for (const texture of [this.gaussians, this.pairs, this.faces]) gl.deleteTexture(texture || null);
    for (const { program } of Object.values(this.programs)) gl.deleteProgram(program);
    gl.deleteVertexArray(this.quads.array);
    gl.deleteVertexArray(this.empty);
    gl.deleteBuffer(this.quads.buffer);
  }

  /** Send what has come since the last time. */
  update() {
    const { gl, data } = this;
    if (this.revision === data.revision) return;
    this.revision = data.revision;
    for (const texture of [this.gaussians, this.pairs]) gl.deleteTexture(texture || null);
    this.gaussians = integerTexture(gl, data.gaussians);
    this.pairs = integerTexture(gl, data.pairs);
  }

  program(name, ...sources) {
    this.programs[name] = this.programs[name] || new Program(this.gl, ...sources);
    return this.programs[name];
  }
}

/** Triangles [F, 3] as texels of four words. */
function padded(faces) {
  const out = new Uint32Array((faces.length / 3) * 4);
  for (let i = 0; i < faces.length; ++i) out[4 * Math.floor(i / 3) + (i % 3)] = faces[i];
  return out;
}

/** One instance: the avatar in one pose, seen by one camera. Changes WebGL's state and does not put it back. */
export class Splats {
  constructor(gl, data) {
    const { meta } = data;
    this.gl = gl;
    this.meta = meta;
    this.shared = SharedTables.of(gl, data);
    this.fence = null;
    this.count = 0;
    this.rows = Math.ceil(meta.gaussians / TABLE_WIDTH);
    this.codes = new FloatTexture(gl, meta.driven);
    this.surface = new FloatTexture(gl, 2 * meta.vertices);
    this.turns = new FloatTexture(gl, meta.triangles);
    this.place = createTexture(gl, gl.RGBA32UI, TABLE_WIDTH, this.rows);
    this.shape = createTexture(gl, gl.RGBA32UI, TABLE_WIDTH, this.rows);
    this.poseTarget = createFramebuffer(gl, [this.place, this.shape]);
  }

  /** What only drawing needs: room for the depths, their order. */
  createSorter() {
    if (this.sorter) return;
    const { gl, meta, rows } = this;
    this.placed = new Uint32Array(TABLE_WIDTH * rows * TEXEL_WORDS);
    this.pixels = gl.createBuffer();
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.pixels);
    gl.bufferData(gl.PIXEL_PACK_BUFFER, this.placed.byteLength, gl.STREAM_READ);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    this.order = createTexture(gl, gl.R32UI, TABLE_WIDTH, rows);
    this.sorter = new DepthSorter(meta.gaussians, TABLE_WIDTH * rows);
  }

  /**
   * Pose: `posed` from Head.pose; view: {R (9 numbers, rows), t, eye, k0, k1, size: [width, height], near}, world to
   * camera (x right, y down, z forward) and pixels. spatial: {eye} alone counts, and the Gaussians are left in space.
   */
  pose(posed, view, spatial = false) {
    const { gl, meta, shared } = this;
    shared.update();
    this.codes.upload(posed.codes);
    this.surface.upload(posed.surface);
    this.turns.upload(posed.turns);
    const program = spatial ? shared.program("spatial", COVER_VERTEX, POSE_FRAGMENT, ["SPATIAL"])
      : shared.program("pose", COVER_VERTEX, POSE_FRAGMENT);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.poseTarget);
    gl.viewport(0, 0, TABLE_WIDTH, this.rows);
    gl.disable(gl.BLEND);
    gl.disable(gl.DEPTH_TEST);
    program.use();
    program.textures({ u_gaussians: shared.gaussians, u_pairs: shared.pairs, u_faces: shared.faces,
                       u_codes: this.codes.texture, u_surface: this.surface.texture, u_turns: this.turns.texture });
    gl.uniform4fv(program.at("u_bones"), posed.bones);
    gl.uniform1i(program.at("u_count"), meta.gaussians);
    gl.uniform1i(program.at("u_vertices"), meta.vertices);
    gl.uniform1i(program.at("u_degree"), meta.degree);
    gl.uniform3fv(program.at("u_eye"), view.eye);
    if (!spatial) this.setView(program, view);
    gl.bindVertexArray(shared.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  setView(program, view) {
    const { gl } = this;
    this.size = view.size;
    gl.uniformMatrix3fv(program.at("u_rotation"), true, view.R);
    gl.uniform3fv(program.at("u_translation"), view.t);
    gl.uniform3fv(program.at("u_k0"), view.k0);
    gl.uniform3fv(program.at("u_k1"), view.k1);
    gl.uniform2fv(program.at("u_size"), view.size);
    gl.uniform1f(program.at("u_near"), view.near);
  }

  /** Ask for the depths of what was posed; `ready` says when they are there, `collect` takes and sorts them. */
  request() {
    const { gl } = this;
    this.createSorter();
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
    this.sort();
  }

  /** Ask, wait and sort: for a single picture. */
  read() {
    const { gl } = this;
    this.createSorter();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.poseTarget);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    gl.readPixels(0, 0, TABLE_WIDTH, this.rows, gl.RGBA_INTEGER, gl.UNSIGNED_INT, this.placed);
    this.sort();
  }

  sort() {
    const { gl, sorter } = this;
    this.count = sorter.backToFront(this.placed);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, TABLE_WIDTH, this.rows, gl.RED_INTEGER, gl.UNSIGNED_INT, sorter.order);
  }

  /**
   * Blend the splats, in the last order found, into the framebuffer and viewport that are bound; returns their number.
   * depth: [a, b], normalised depth is a + b / camera depth; linear: whether the target holds linear light.
   */
  draw(depth = [0, 0], linear = false) {
    const { gl, shared } = this, program = shared.program("splat", SPLAT_VERTEX, SPLAT_FRAGMENT);
    gl.enable(gl.BLEND);
    gl.blendEquation(gl.FUNC_ADD);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    program.use();
    program.textures({ u_order: this.order, u_place: this.place, u_shape: this.shape });
    gl.uniform2fv(program.at("u_size"), this.size);
    gl.uniform2fv(program.at("u_depth"), depth);
    gl.uniform1i(program.at("u_linear"), linear ? 1 : 0);
    gl.bindVertexArray(shared.quads.array);
    gl.drawElements(gl.TRIANGLES, 6 * this.count, gl.UNSIGNED_INT, 0);
    return this.count;
  }

  dispose() {
    const { gl } = this;
    for (const table of [this.codes, this.surface, this.turns]) table.dispose();
    for (const texture of [this.place, this.shape, this.order]) gl.deleteTexture(texture || null);
    gl.deleteFramebuffer(this.poseTarget);
    gl.deleteBuffer(this.pixels || null);
    if (this.fence) gl.deleteSync(this.fence);
    this.shared.release();
  }
}
