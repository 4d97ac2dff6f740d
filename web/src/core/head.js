// The head model in a browser: codes to bones, vertex offsets and triangle turns. A few thousand numbers a
// frame; the Gaussians, which are many, are posed on the GPU (pose.frag).

import { SparseRows } from "./coding.js";
import { IDENTITY, add, affine, apply, blendAffine, multiply, rigidAlign } from "./math.js";
import { rotationFrom6d, rotationFromVector, subtract, vectorFromRotation } from "./math.js";

/**
 * Codes are {expression: Float32Array(E), neck, jaw, leftEye, rightEye: rotation vectors, eyelids: [left, right], sway:
 * how the head is turned and placed, six numbers, 0 on average}.
 */
export function neutralCodes(meta) {
  return { expression: new Float32Array(meta.expressionNames.length), neck: [0, 0, 0], jaw: [0, 0, 0],
           leftEye: [0, 0, 0], rightEye: [0, 0, 0], eyelids: [0, 0], sway: [0, 0, 0, 0, 0, 0] };
}

/** The codes of one frame of the clip. */
export function clipCodes(meta, tables, frame) {
  const row = (name, width) => Array.from(tables[name].subarray(width * frame, width * (frame + 1)));
  const vector = (six) => vectorFromRotation(rotationFrom6d(six));
  const eyes = row("clipEyes", 12), count = meta.expressionNames.length;
  return { expression: tables.clipExpression.slice(count * frame, count * (frame + 1)),
           neck: tables.clipNeck ? vector(row("clipNeck", 6)) : [0, 0, 0], jaw: vector(row("clipJaw", 6)),
           leftEye: vector(eyes.slice(0, 6)), rightEye: vector(eyes.slice(6)), eyelids: row("clipEyelids", 2),
           sway: tables.clipSway ? row("clipSway", 6) : [0, 0, 0, 0, 0, 0] };
}

/** What the head model moves otherwise than the person, by pose and expression (scene/sway.py). */
class Sway {
  constructor(meta, tables) {
    this.shares = new SparseRows(tables, "sway", 1);
    this.control = tables.swayControl;
    this.moved = new Float32Array(this.control.length / (neutralCodes(meta).sway.length + meta.driven));
  }

  /** Displace `surface` (four numbers a vertex); expressions: every fourth number, limited as training saw them. */
  add(pose, expressions, surface) {
    const { control, moved, shares } = this, width = moved.length;
    moved.fill(0);
    for (let row = 0; width * row < control.length; ++row) {
      const code = row < pose.length ? pose[row] : expressions[4 * (row - pose.length)];
      if (code === 0) continue;
      for (let i = 0; i < width; ++i) moved[i] += code * control[width * row + i];
    }
    for (let vertex = 0; vertex + 1 < shares.start.length; ++vertex) {
      for (let p = shares.start[vertex]; p < shares.start[vertex + 1]; ++p) {
        for (let i = 0; i < 3; ++i) surface[4 * vertex + i] += shares.value[p] * moved[3 * shares.column[p] + i];
      }
    }
  }
}

export class Head {
  constructor(meta, tables) {
    this.meta = meta;
    this.tables = tables;
    this.vertices = new SparseRows(tables, "vertex", 3);
    this.lids = new SparseRows(tables, "lid", 3);
    this.turns = new SparseRows(tables, "turn", 4);
    this.sway = tables.swayControl ? new Sway(meta, tables) : null;
    this.posed = {
      bones: new Float32Array(96),  // eight bones, twelve numbers each
      codes: new Float32Array(4 * meta.driven),
      surface: new Float32Array(8 * meta.vertices),  // before skinning, then after it
      turns: new Float32Array(4 * meta.triangles),
    };
  }

  /** What pose.frag needs for these codes; the same arrays every time. */
  pose(codes) {
    const { meta, tables, posed } = this;
    const rotations = [IDENTITY, codes.neck, codes.jaw, codes.leftEye, codes.rightEye]
      .map((v, joint) => (joint ? rotationFromVector(v) : v));
    const feature = rotations.slice(1).flatMap((r) => subtract(r, IDENTITY));
    const moving = [...codes.expression.subarray(0, meta.driven), ...(meta.correctives ? feature : [])];
    this.vertices.sum(moving, posed.surface, 0);
    this.lids.sum(codes.eyelids, posed.surface, meta.vertices);
    this.turns.sum(moving, posed.turns, 0);
    const share = this.codeShare(codes.expression);
    for (let k = 0; k < meta.driven; ++k) {
      const low = tables.codeRange[k], high = tables.codeRange[meta.driven + k];
      posed.codes[4 * k] = Math.min(Math.max(share * codes.expression[k], low), high);
    }
    this.sway?.add(codes.sway, posed.codes, posed.surface);
    posed.bones.set(this.bones(codes, rotations, feature).flat());
    return posed;
  }

  /** The share of the codes, 1 at most, of which none lies more than the slack outside what training saw. */
  codeShare(expression) {
    const { codeRange } = this.tables, { driven, codeSlack } = this.meta;
    let share = 1;
    for (let k = 0; k < driven; ++k) {
      const code = expression[k], low = codeRange[k], high = codeRange[driven + k];
      const reach = code > 0 ? high + codeSlack : low - codeSlack;
      if (code !== 0 && high > low) share = Math.min(share, reach / code);
    }
    return share;
  }

  /** The joints, the rigid skull (upper teeth) and the lower teeth, each [R | t] from rest to posed. */
  bones(codes, rotations, feature) {
    const joints = this.jointTransforms(rotations, this.jointPlaces(codes.expression));
    const skull = rigidAlign(this.tables.anchorNeutral, this.anchorPlaces(codes, feature, joints));
    return [...joints, skull, blendAffine(this.tables.lowerTeethWeights, joints)];
  }

  jointPlaces(expression) {
    const { jointNeutral, jointDirections } = this.tables, count = expression.length;
    return this.meta.parents.map((_, joint) => [0, 1, 2].map((axis) => {
      const row = 3 * joint + axis;
      let place = jointNeutral[row];
      for (let k = 0; k < count; ++k) place += expression[k] * jointDirections[row * count + k];
      return place;
    }));
  }

  jointTransforms(rotations, places) {
    const turns = [], moved = [];
    this.meta.parents.forEach((parent, joint) => {
      if (parent < 0) {
        turns.push(IDENTITY);
        moved.push(places[joint]);
        return;
      }
      turns.push(multiply(turns[parent], rotations[joint]));
      moved.push(add(moved[parent], apply(turns[parent], subtract(places[joint], places[parent]))));
    });
    return turns.map((turn, joint) => affine(turn, subtract(moved[joint], apply(turn, places[joint]))));
  }

  /** Posed vertices of the back of the head, whose motion is the skull's. */
  anchorPlaces(codes, feature, joints) {
    const { anchorNeutral, anchorDirections, anchorWeights, anchorLids } = this.tables;
    const columns = [...codes.expression, ...feature], count = columns.length, joint = joints.length;
    const out = new Float64Array(anchorNeutral.length);
    for (let v = 0; 3 * v < out.length; ++v) {
      const rest = [0, 1, 2].map((axis) => {
        const row = 3 * v + axis;
        let place = anchorNeutral[row];
        for (let k = 0; k < count; ++k) place += columns[k] * anchorDirections[row * count + k];
        return place;
      });
      const m = blendAffine(anchorWeights.subarray(joint * v, joint * (v + 1)), joints);
      for (let i = 0; i < 3; ++i) {
        const lids = codes.eyelids[0] * anchorLids[6 * v + 2 * i] + codes.eyelids[1] * anchorLids[6 * v + 2 * i + 1];
        out[3 * v + i] = m[4 * i] * rest[0] + m[4 * i + 1] * rest[1] + m[4 * i + 2] * rest[2] + m[4 * i + 3] + lids;
      }
    }
    return out;
  }
}
