"use strict";
// What a camera sees of a face, as codes and a view of the avatar: the same steps as reenactment/ takes in Python
// (face.py, retarget.py, cures.py, motion.py, webcam.py), with the numbers that the export put into DRIVING.

const SCORE_FILTER = [3, 1], TURN_FILTER = [1, 4], PLACE_FILTER = [1, 10];  // cutoff in Hz, its rise with speed
const GAZE_SIDEWAYS = 0.42, GAZE_UPRIGHT = 0.28;  // radians that an eye turns at score 1
const FACE_HEIGHT = 0.125;  // metres from forehead to chin
const FOREHEAD = 10, CHIN = 152;  // MediaPipe's numbers
const SPEED_CUTOFF = 1;  // Hz
const NEAREST = 0.2;  // metres
const LEEWAY = 0.05;  // radians
const REST = 0.2;  // quantile
const LARGEST_CODE = 1.1, SOLVER_STEPS = 300, SOLVER_TOLERANCE = 1e-5;

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** The One Euro filter (Casiez, Roussel, Vogel 2012) on a vector: a low-pass whose cutoff rises with speed. */
class OneEuro {
  constructor([cutoff, speed]) {
    Object.assign(this, { cutoff, speed, value: null });
  }

  filter(value, time) {
    if (this.value === null) Object.assign(this, { value, time, slope: value.map(() => 0) });
    const step = time - this.time;
    if (step <= 0) return this.value;
    const share = (cutoff) => 1 / (1 + 1 / (2 * Math.PI * cutoff * step));
    this.slope = this.slope.map((x, i) => x + share(SPEED_CUTOFF) * ((value[i] - this.value[i]) / step - x));
    const shares = this.slope.map((slope) => share(this.cutoff + this.speed * Math.abs(slope)));
    this.value = this.value.map((x, i) => x + shares[i] * (value[i] - x));
    this.time = time;
    return this.value;
  }
}

/**
 * Reads the largest face: curves of a head with ARKit's expressions, {expression, jaw [3], gaze [6] (left and right
 * eye), lids [2]} with rotations as rotation vectors, and the head's motion {R, middle, focal}.
 */
class FaceReader {
  constructor() {
    this.scores = new OneEuro(SCORE_FILTER);
    this.turn = new OneEuro(TURN_FILTER);
    this.place = new OneEuro(PLACE_FILTER);
    this.first = null;
  }

  /** faces: [{scores: {name: number}, points: [[x, y, z] in pixels], pose: 9 numbers, rows}]; time in seconds. */
  read(faces, width, height, time) {
    const face = faces.reduce((best, other) => (faceSize(other) > faceSize(best) ? other : best));
    return { curves: this.curves(face, time), motion: this.motion(face, width, height, time) };
  }

  curves({ scores }, time) {
    const names = DRIVING.scores, filtered = this.scores.filter(names.map((name) => scores[name] || 0), time);
    const score = Object.fromEntries(names.map((name, i) => [name, filtered[i]]));
    const expression = DRIVING.arkit.names.map((name) => score[name] || 0);
    const gaze = ["Left", "Right"].flatMap((side) => {
      const [down, up, inwards, outwards] = ["Down", "Up", "In", "Out"].map((way) => score[`eyeLook${way}${side}`]);
      const left = side === "Left" ? outwards - inwards : inwards - outwards;
      return [GAZE_UPRIGHT * (down - up), GAZE_SIDEWAYS * left, 0];
    });
    return { expression, jaw: jawOf(expression, DRIVING.arkit.jaw), gaze, lids: [0, 0] };
  }

  motion({ points, pose }, width, height, time) {
    const turn = [...pose.slice(0, 3), ...pose.slice(3).map((x) => -x)];  // y up, z to the viewer -> y down, z away
    this.first = this.first || turn;
    const vector = this.turn.filter(vectorFromRotation(multiply(turn, transpose(this.first))), time);
    const focal = 2 * width, away = (FACE_HEIGHT * focal) / Math.max(faceSize({ points }), 1e-3);
    const mean = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
    const across = [mean[0] - 0.5 * width, mean[1] - 0.5 * height].map((pixels) => (pixels * away) / focal);
    const middle = this.place.filter([...across, away], time);
    return { R: multiply(rotationFromVector(vector), this.first), middle, focal: focal / width };
  }
}

function faceSize({ points }) {
  return Math.hypot(...subtract(points[FOREHEAD], points[CHIN]));
}

/** The turn of the jaw that belongs to an expression; jaw: [E][3]. */
function jawOf(expression, jaw) {
  return [0, 1, 2].map((i) => expression.reduce((sum, code, k) => sum + code * jaw[k][i], 0));
}

/** Rows times a vector. */
function applyRows(rows, vector) {
  return rows.map((row) => row.reduce((sum, x, i) => sum + x * vector[i], 0));
}

/** Curves of ARKit's head as curves of the avatar's. */
function retargeted(curves) {
  const { retarget } = DRIVING;
  if (!retarget) return curves;
  const wanted = applyRows(retarget.onto, [...curves.expression, ...curves.lids, ...curves.jaw]);
  const x = boundedCodes(applyRows(retarget.inverse, wanted), wanted);
  return { expression: x.slice(0, -2), jaw: curves.jaw, gaze: curves.gaze, lids: x.slice(-2) };
}

/** Codes inside their bounds, by projected gradients with momentum (Beck and Teboulle 2009). */
function boundedCodes(start, wanted) {
  const { normal, rate } = DRIVING.retarget, codes = start.length - 2;
  const bounded = (values) => values.map((x, i) => (i >= codes ? clamp(x, 0, 1)
    : DRIVING.unsigned ? clamp(x, 0, LARGEST_CODE) : x));
  let x = bounded(start), y = x, pace = 1;
  for (let step = 0; step < SOLVER_STEPS; ++step) {
    const last = x, slope = subtract(applyRows(normal, y), wanted);
    x = bounded(y.map((value, i) => value - rate * slope[i]));
    if (Math.max(...x.map((value, i) => Math.abs(value - last[i]))) <= SOLVER_TOLERANCE) break;
    const faster = (1 + Math.sqrt(1 + 4 * pace ** 2)) / 2;
    y = x.map((value, i) => value + ((pace - 1) / faster) * (value - last[i]));
    pace = faster;
  }
  return x;
}

/** Another expression; the jaw turns with it where the head couples the two. */
function withExpression(curves, expression) {
  const turn = jawOf(subtract(expression, curves.expression), DRIVING.jaw);
  return { ...curves, expression, jaw: add(curves.jaw, turn) };
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b), place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

/** The lower of the two in the middle. */
function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

/** Where curves usually are: the face between expressions. */
function habitOf(all) {
  const column = (part, i) => all.map((curves) => curves[part][i]);
  const expression = DRIVING.jaw.map((_, k) => quantile(column("expression", k), DRIVING.unsigned ? REST : 0.5));
  const beyond = all.map((curves) => subtract(curves.jaw, jawOf(curves.expression, DRIVING.jaw)));
  const jaw = [0, 1, 2].map((i) => median(beyond.map((turn) => turn[i])));
  if (!DRIVING.unsigned) jaw[0] = quantile(beyond.map((turn) => turn[0]), REST);
  return { expression, jaw: add(jaw, jawOf(expression, DRIVING.jaw)),
           gaze: all[0].gaze.map((_, i) => median(column("gaze", i))) };
}

/** The driver's habit replaced by the avatar's. */
function centered(curves, driver) {
  const { habit, blinks, unsigned } = DRIVING;
  const moved = (part) => curves[part].map((x, i) => x - driver[part][i] + habit[part][i]);
  const wanted = moved("expression");
  blinks.forEach((k) => { wanted[k] = curves.expression[k]; });
  const shifted = { ...curves, expression: wanted, jaw: moved("jaw"), gaze: moved("gaze") };
  return unsigned ? withExpression(shifted, wanted.map((x) => Math.max(x, 0))) : shifted;
}

/** Curves inside what training saw. */
function projected(curves) {
  const { range, blinks, mouthClose, jawOpen } = DRIVING;
  const limited = (values, [low, high]) => values.map((x, i) => clamp(x, low[i], high[i]));
  const expression = limited(curves.expression, range.expression);
  if (mouthClose >= 0 && jawOpen >= 0) {  // lips that cannot be shut so far: the jaw opens less
    const open = Math.max(0, curves.expression[mouthClose] - expression[mouthClose]);
    expression[jawOpen] = Math.max(0, expression[jawOpen] - open);
  }
  blinks.forEach((k) => { expression[k] = curves.expression[k]; });
  const moved = withExpression(curves, expression);
  return sharedBlinks({ ...moved, jaw: limited(moved.jaw, range.jaw), gaze: limited(moved.gaze, range.gaze) });
}

/** Each blink divided between expression and eyelid code as in training. */
function sharedBlinks(curves) {
  const { blinks, blinkShare, range } = DRIVING, expression = [...curves.expression], lids = [...curves.lids];
  blinks.forEach((k, side) => {
    const total = clamp(expression[k] + lids[side], 0, 1);
    expression[k] = Math.min(blinkShare * total, range.expression[1][k]);
    lids[side] = total - expression[k];
  });
  return { ...curves, expression, lids };
}

/** {R, middle, focal} of several: the mean pose and place. */
function averageMotion(all) {
  const mean = (part, i) => all.reduce((sum, motion) => sum + motion[part][i], 0) / all.length;
  return { R: nearestRotation(all[0].R.map((_, i) => mean("R", i))), middle: [0, 1, 2].map((i) => mean("middle", i)),
           focal: all.reduce((sum, motion) => sum + motion.focal, 0) / all.length };
}

/** The driver's turns and moves about `base`, done from the avatar's mean. */
function transferred(driver, base) {
  const { own } = DRIVING;
  const seen = ({ focal, middle }) => [0, 1].map((i) => (focal * middle[i]) / Math.max(middle[2], NEAREST));
  const away = Math.max((driver.middle[2] / base.middle[2]) * own.middle[2], NEAREST);
  const across = subtract(add(seen(own), seen(driver)), seen(base));
  return { R: multiply(multiply(driver.R, transpose(base.R)), own.R),
           middle: [(across[0] * away) / own.focal, (across[1] * away) / own.focal, away] };
}

/** Turns inside those of training are as they are; what goes beyond is slowed down. */
function limitedTurns(motion) {
  const { mean, low, high } = DRIVING.turns;
  const turns = vectorFromRotation(multiply(motion.R, transpose(mean))).map((x, i) => {
    const inside = clamp(x, low[i], high[i]);
    return inside + LEEWAY * Math.tanh((x - inside) / LEEWAY);
  });
  return { ...motion, R: multiply(rotationFromVector(turns), mean) };
}

/** How hair, neck and clothes follow a head that is seen so: six codes. */
function swayOf(R, t) {
  if (!DRIVING.sway) return [0, 0, 0, 0, 0, 0];
  const { facing, center, mean, edge, lever, unit } = DRIVING.sway;
  const turn = vectorFromRotation(multiply(R, transpose(facing))).map((x) => lever * x);
  const moved = [...turn, ...add(apply(R, center), t)].map((x, i) => x - mean[i]);
  const outside = Math.hypot(...edge.map((row) => row.reduce((sum, x, i) => sum + x * moved[i], 0)));
  return moved.map((x) => x / Math.max(1, outside) / unit);
}

/** Acts what is seen. The first DRIVING.calibrate seconds tell the driver's habit and where its head is at rest. */
class Actor {
  constructor() {
    Object.assign(this, { seen: [], began: null });
  }

  /** {codes, R, t}: what the avatar does, and from where it is seen; moves: whether the head moves too. */
  act({ curves, motion }, time, moves = true) {
    const own = retargeted(curves);
    this.learn(own, motion, time);
    const acted = projected(centered(own, this.habit));
    const view = limitedTurns(moves ? transferred(motion, this.place) : DRIVING.own);
    const R = view.R, t = subtract(view.middle, apply(R, DRIVING.middle));
    const codes = { expression: Float32Array.from(acted.expression), neck: [0, 0, 0], jaw: acted.jaw,
                    leftEye: acted.gaze.slice(0, 3), rightEye: acted.gaze.slice(3), eyelids: acted.lids,
                    sway: swayOf(R, t) };
    return { codes, R, t };
  }

  learn(curves, motion, time) {
    if (this.began === null) this.began = time;
    if (this.place && time - this.began > DRIVING.calibrate) return;
    this.seen.push({ curves, motion });
    this.habit = habitOf(this.seen.map((item) => item.curves));
    this.place = averageMotion(this.seen.map((item) => item.motion));
  }
}
