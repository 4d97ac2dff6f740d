"use strict";
// World-to-camera rotation (row-major), translation and pixel intrinsics; x right, y down, z forward.

/** Degrees between the view of the head from `eye` and the nearest one of training; `skull` is its [R | t]. */
function offSeenViews(eye, skull, meta, { seenViews }) {
  const moved = subtract(eye, [skull[3], skull[7], skull[11]]);
  const atRest = [0, 1, 2].map((i) => skull[i] * moved[0] + skull[4 + i] * moved[1] + skull[8 + i] * moved[2]);
  const direction = subtract(atRest, meta.target), length = Math.hypot(...direction);
  let nearest = -1;
  for (let v = 0; v < seenViews.length; v += 3) {
    const [x, y, z] = seenViews.subarray(v, v + 3);
    nearest = Math.max(nearest, (x * direction[0] + y * direction[1] + z * direction[2]) / length);
  }
  return Math.acos(Math.min(nearest, 1)) / DEGREE;
}

class Camera {
  constructor(meta, tables) {
    this.meta = meta;
    this.tables = tables;
    this.frame = meta.front;
    this.driven = null;  // {R, t, K} of a head that moves as the visitor's does
    this.reset();
  }

  reset() {
    Object.assign(this, { yaw: 0, pitch: 0, zoom: 1, shift: [0, 0] });
  }

  /** Turn around the head by angles in radians. */
  orbit(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(Math.max(this.pitch + pitch, -1.4), 1.4);
  }

  scale(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.2), 5);
  }

  /** Move the picture by fractions of its height. */
  pan(x, y) {
    this.shift = [this.shift[0] + x, this.shift[1] + y];
  }

  /** The recorded camera of `frame` or the driven one, turned around the head, for width x height pixels. */
  view(width, height) {
    const { meta } = this, { R: rotation, t: translation, K } = this.driven || this.recorded();
    const center = add(apply(rotation, meta.target), translation);
    const turn = multiply(rotationFromVector([this.pitch, 0, 0]), rotationFromVector([0, this.yaw, 0]));
    const R = multiply(turn, rotation);
    const t = add(apply(turn, subtract(translation, center)), [center[0], center[1], center[2] / this.zoom]);
    const eye = apply(transpose(R), t).map((x) => -x);
    return { R, t, eye, ...this.intrinsics(K, width, height) };
  }

  recorded() {
    const { tables, frame } = this;
    const rows = (name, count) => Array.from(tables[name].subarray(count * frame, count * (frame + 1)));
    return { R: rows("clipRotation", 9), t: rows("clipTranslation", 3), K: rows("clipIntrinsics", 9) };
  }

  /** The clip's picture fits into ours and keeps its proportions. */
  intrinsics(K, width, height) {
    const { meta, shift } = this, scale = Math.min(width / meta.width, height / meta.height);
    const left = (width - scale * meta.width) / 2, top = (height - scale * meta.height) / 2;
    return { k0: [scale * K[0], scale * K[1], scale * K[2] + left + shift[0] * height],
             k1: [scale * K[3], scale * K[4], scale * K[5] + top + shift[1] * height] };
  }
}
