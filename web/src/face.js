// What an avatar does, by property: expressions by name, joints, eyelids, sway. Both kinds of objects are made with it.

import { Head, clipCodes, neutralCodes } from "./core/head.js";

const JOINTS = ["neck", "jaw", "leftEye", "rightEye"];

/** An object whose properties are the expressions; a name that there is none of throws. */
function expressionsByName(face) {
  const { meta, tables } = face.data, byName = {};
  meta.expressionNames.forEach((name, k) => Object.defineProperty(byName, name, {
    enumerable: true,
    get: () => face.codes.expression[k],
    set: (value) => {
      // Some expressions carry the jaw with them: opening the mouth turns the bone as well as the skin.
      const change = value - face.codes.expression[k];
      for (let i = 0; i < 3; ++i) face.codes.jaw[i] += change * tables.expressionJaw[3 * k + i];
      face.codes.expression[k] = value;
      face.changed = true;
    },
  }));
  return Object.seal(byName);
}

/** The codes of one avatar; `changed` until they are posed. */
export class Face {
  constructor(data) {
    this.data = data;
    this.head = new Head(data.meta, data.tables);
    this.expressions = expressionsByName(this);
    this.revision = -1;
    this.neutral();
  }

  neutral() {
    this.codes = neutralCodes(this.data.meta);
    this.changed = true;
  }

  /** {name: value} of expressions; those not named stay. */
  set(values) {
    const { meta } = this.data;
    for (const name of Object.keys(values)) {
      if (!(name in this.expressions)) {
        throw new Error(`${meta.name} has no expression ${name}; it has ${meta.expressionNames.join(", ")}`);
      }
    }
    Object.assign(this.expressions, values);
  }

  get frames() {
    return this.data.meta.frames;
  }

  showFrame(frame) {
    const { meta, tables } = this.data;
    if (!(frame >= 0 && frame < meta.frames)) throw new Error(`frame: wanted 0 to ${meta.frames - 1}, got ${frame}`);
    this.codes = clipCodes(meta, tables, Math.floor(frame));
    this.changed = true;
  }

  setVector(name, value) {
    const count = this.codes[name].length;
    if (value.length !== count) throw new Error(`${name}: wanted ${count} numbers, got ${value.length}`);
    this.codes[name] = Array.from(value);
    this.changed = true;
  }

  /** What the GPU needs of the codes, and whether that is new. */
  posed() {
    const fresh = this.changed || this.revision !== this.data.revision;
    this.changed = false;
    this.revision = this.data.revision;
    return { posed: fresh ? this.head.pose(this.codes) : this.head.posed, fresh };
  }
}

/** Give a class the properties of its `face`. */
export function withFace(Class) {
  const share = (name, what) => Object.defineProperty(Class.prototype, name, { configurable: true, ...what });
  for (const name of [...JOINTS, "eyelids", "sway"]) {
    share(name, {
      get() { return [...this.face.codes[name]]; },
      set(value) { this.face.setVector(name, value); },
    });
  }
  for (const name of ["expressions", "frames"]) share(name, { get() { return this.face[name]; } });
  for (const name of ["set", "neutral", "showFrame"]) {
    share(name, { value(...values) {
      this.face[name](...values);
      return this;
    } });
  }
}
