"use strict";
// The state of the page and its loop: codes, frame, camera; draws when something changed.

const CLIP_RATE = 25;  // frames of the clip a second, as the trackers record
const MAX_SIDE = 1024;  // pixels: beyond it, phones and integrated GPUs fall behind without looking better

class AvatarPlayer {
  /** data: AvatarData, complete or not; `touch` when more of it has come. */
  constructor(canvas, data) {
    const { meta } = data;
    this.meta = meta;
    this.canvas = canvas;
    this.tables = data.tables;
    this.controls = controlsOf(meta, this.tables);
    this.head = new Head(meta, this.tables);
    this.camera = new Camera(meta, this.tables);
    this.renderer = new Renderer(canvas, data);
    this.codes = neutralCodes(meta);
    this.size = [meta.width, meta.height];
    this.onchange = () => {};
    this.ontake = () => {};
    Object.assign(this, { playing: false, loop: true, follow: true, frame: 0, changed: true, drawn: 0, rate: 0 });
    this.setBackground("#202428");
  }

  /** Show a frame of the clip: its codes and, where it is followed, its camera. */
  showFrame(frame) {
    this.frame = Math.min(Math.max(Math.round(frame), 0), this.meta.frames - 1);
    this.codes = clipCodes(this.meta, this.tables, this.frame);
    if (this.follow) this.camera.frame = this.frame;
    this.touch();
  }

  setFollow(follow) {
    this.follow = follow;
    this.camera.frame = follow ? this.frame : this.meta.front;
    this.touch();
  }

  showCodes(codes) {
    this.take();
    this.codes = codes;
    this.touch();
  }

  /** Codes and camera of a face that is being watched. */
  drive(codes, camera) {
    this.codes = codes;
    this.camera.driven = camera;
    this.touch();
  }

  /** Somebody else moves the avatar from now on: the clip pauses, whoever watches a face stops. */
  take() {
    this.pause();
    this.ontake();
  }

  setControl(control, value) {
    this.take();
    control.set(this.codes, value);
    this.touch();
  }

  play() {
    this.ontake();
    this.playing = true;
    const first = this.frame >= this.meta.frames - 1 ? 0 : this.frame;
    this.playedFrom = { frame: first, time: performance.now() };
    this.touch();
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.rate = 0;
    this.touch();
  }

  /** Something to be seen has changed. */
  touch() {
    this.changed = true;
    this.onchange();
  }

  /** What the address asks for. Throws an Error that says what is wrong with it. */
  follows(address) {
    if (address.frame !== null) this.showFrame(address.frame);
    if (address.neutral || address.frame === null) this.codes = neutralCodes(this.meta);
    for (const [name, value] of address.set) {
      const control = this.controls.find(({ id }) => id === name);
      if (!control) throw new Error(`#set: there is no control ${name}`);
      control.set(this.codes, value);
    }
    this.camera.orbit(address.yaw * DEGREE, address.pitch * DEGREE);
    this.camera.scale(address.zoom);
    if (address.background) this.setBackground(`#${address.background}`);
    this.touch();
  }

  /** background: "#rrggbb". */
  setBackground(background) {
    if (!/^#[0-9a-f]{6}$/i.test(background)) throw new Error(`background: wanted RRGGBB, got ${background.slice(1)}`);
    this.backgroundName = background.toLowerCase();
    this.background = [1, 3, 5].map((at) => parseInt(background.slice(at, at + 2), 16) / 255);
    this.touch();
  }

  /** The size in pixels of the pictures to come; the canvas takes it when the first of them is drawn. */
  resize(width, height) {
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height, 1));
    this.size = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    this.touch();
  }

  pose() {
    this.changed = false;
    const posed = this.head.pose(this.codes), view = this.camera.view(...this.size);
    const skull = posed.bones.subarray(12 * this.meta.parents.length);  // the bone after the joints
    this.offSeen = offSeenViews(view.eye, skull, this.meta, this.tables);
    this.renderer.pose(posed, view, this.size);
  }

  draw() {
    this.drawn = this.renderer.draw(this.background);
  }

  /** One picture, now. */
  drawStill() {
    this.pose();
    this.renderer.splats.read();
    this.draw();
  }

  /** One turn of the loop: draw what was posed in the last one, if the GPU is done with it, then pose anew. */
  tick(now) {
    const { splats } = this.renderer;
    if (splats.waiting) {
      if (!splats.ready()) return;
      splats.collect();
      this.draw();
      this.measure(now);
    }
    if (this.playing) this.advance(now);
    if (this.changed) {
      this.pose();
      splats.request();
    }
  }

  advance(now) {
    const { frame, time } = this.playedFrom, count = this.meta.frames;
    const next = frame + Math.floor(Math.max(0, (now - time) * CLIP_RATE) / 1000);
    if (next >= count && !this.loop) {
      this.showFrame(count - 1);
      this.pause();
    } else if (next % count !== this.frame || this.changed) {
      this.showFrame(next % count);
    }
  }

  /** Pictures a second, smoothed; pauses between pictures are left out. */
  measure(now) {
    const passed = now - (this.lastDrawn || 0);
    this.lastDrawn = now;
    if (passed < 3000) this.rate = this.rate ? this.rate + 0.1 * (1000 / passed - this.rate) : 1000 / passed;
  }
}
