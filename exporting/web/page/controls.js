"use strict";
// What a visitor can move: one control for each number of the codes that means something by itself.

const DEGREE = Math.PI / 180;

const GROUPS = { brow: "Brows", eye: "Eyelids and gaze (shapes)", cheek: "Cheeks", nose: "Nose", jaw: "Jaw (shapes)",
                 mouth: "Mouth", tongue: "Tongue" };

/** Controls that turn a joint: id, label, codes, axis (0 x, 1 y, 2 z), sign, anatomy's range in degrees. */
const TURNS = [
  ["jaw_open", "Jaw open", ["jaw"], 0, 1, [-5, 35]],
  ["jaw_side", "Jaw left", ["jaw"], 1, 1, [-15, 15]],
  ["look_left", "Look left", ["leftEye", "rightEye"], 1, 1, [-30, 30]],
  ["look_up", "Look up", ["leftEye", "rightEye"], 0, -1, [-25, 25]],
  ["neck_left", "Turn left", ["neck"], 1, 1, [-40, 40]],
  ["neck_up", "Nod up", ["neck"], 0, -1, [-25, 25]],
  ["neck_tilt", "Tilt right", ["neck"], 2, 1, [-25, 25]],
];

const LEAST_TURN = 5;  // degrees: a joint that the clip holds still can be turned at least this far

/** Joints turn as far as the clip shows, and a fifth more: what lies beyond, the avatar has never seen. */
function turnControl([id, label, parts, axis, sign, [min, max]], clip) {
  const angles = clip.map((codes) => (sign * codes[parts[0]][axis]) / DEGREE);
  const low = angles.reduce((a, b) => Math.min(a, b), 0), high = angles.reduce((a, b) => Math.max(a, b), 0);
  return {
    id, label, group: "Jaw, gaze and neck", step: 0.5, unit: "°",
    min: Math.max(min, Math.floor(Math.min(1.2 * low, -LEAST_TURN))),
    max: Math.min(max, Math.ceil(Math.max(1.2 * high, LEAST_TURN))),
    get: (codes) => (sign * codes[parts[0]][axis]) / DEGREE,
    set: (codes, value) => parts.forEach((part) => { codes[part][axis] = sign * value * DEGREE; }),
  };
}

function eyelidControl(side) {
  return {
    id: `eyelid_${["left", "right"][side]}`, label: `Close ${["left", "right"][side]} eye`, group: "Jaw, gaze and neck",
    min: 0, max: 1, step: 0.01, unit: "",
    get: (codes) => codes.eyelids[side],
    set: (codes, value) => { codes.eyelids[side] = value; },
  };
}

/** "mouthSmileLeft" in the group "Mouth" -> "Smile left"; names of other heads stay as they are. */
function readable(name, prefix) {
  const words = name.slice(prefix.length).replace(/([A-Z])/g, " $1").trim().toLowerCase();
  return words ? words[0].toUpperCase() + words.slice(1) : name;
}

function expressionControl(name, k, meta, tables) {
  const prefix = Object.keys(GROUPS).find((word) => new RegExp(`^${word}[A-Z]`).test(name)) || "";
  const low = tables.seenRange[k], high = tables.seenRange[meta.driven + k];
  const signed = tables.seenRange.subarray(0, meta.driven).some((x) => x < 0);
  const reach = Math.max(1, high, signed ? -low : 0), tens = 10 * Math.floor(k / 10);
  return {
    id: name, label: prefix ? readable(name, prefix) : name,
    group: prefix ? GROUPS[prefix] : `Expressions ${tens + 1} to ${Math.min(tens + 10, meta.driven)}`,
    min: signed ? -reach : 0, max: reach, step: 0.01, unit: "", seen: [low, high],
    get: (codes) => codes.expression[k],
    set: (codes, value) => {
      // Some expressions carry the jaw with them: opening the mouth turns the bone as well as the skin.
      const change = value - codes.expression[k];
      for (let i = 0; i < 3; ++i) codes.jaw[i] += change * tables.expressionJaw[3 * k + i];
      codes.expression[k] = value;
    },
  };
}

/** All controls, in the order in which they are shown. */
function controlsOf(meta, tables) {
  const expressions = meta.expressionNames.slice(0, meta.driven)
    .map((name, k) => expressionControl(name, k, meta, tables));
  const clip = Array.from({ length: meta.frames }, (_, frame) => clipCodes(meta, tables, frame));
  const posture = [...TURNS.map((turn) => turnControl(turn, clip)), eyelidControl(0), eyelidControl(1)];
  return [...posture, ...expressions];
}

/** A face made of a few expressions, each within what training saw. */
function randomCodes(meta, controls, random = Math.random) {
  const codes = neutralCodes(meta);
  const moving = controls.filter((control) => control.seen && control.seen[1] - control.seen[0] > 0.05);
  for (let i = 0; i < 5 && moving.length; ++i) {
    const control = moving[Math.floor(random() * moving.length)], [low, high] = control.seen;
    control.set(codes, low + random() * (high - low));
  }
  return codes;
}

/**
 * What the address asks for after "#": frame=N, neutral=1, set=NAME:VALUE,..., yaw=, pitch= (degrees), zoom=,
 * background=RRGGBB, size=PIXELS (one picture of that size and nothing else), ui=0 (no controls), play=0 or 1.
 */
function parseAddress(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name, otherwise) => {
    const value = given.has(name) ? Number(given.get(name)) : otherwise;
    if (value === null || Number.isFinite(value)) return value;
    throw new Error(`#${name}: a number is wanted, got ${given.get(name)}`);
  };
  const set = (given.get("set") || "").split(",").filter(Boolean).map((item) => {
    const [name, value] = item.split(":");
    if (value === undefined || !Number.isFinite(Number(value))) {
      throw new Error(`#set: wanted NAME:VALUE,..., got ${item}`);
    }
    return [name, Number(value)];
  });
  return { frame: number("frame", null), neutral: number("neutral", 0) === 1, set, yaw: number("yaw", 0),
           pitch: number("pitch", 0), zoom: number("zoom", 1), background: given.get("background"),
           size: number("size", null), ui: number("ui", 1) !== 0,
           play: number("play", given.toString() === "" ? 1 : 0) === 1 };
}
