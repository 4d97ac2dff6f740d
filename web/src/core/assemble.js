// The GPU's tables from those of the file: four words a texel, halves where they are enough. docs/web.md has the
// layout; POSE_FRAGMENT reads it.

import { startsOf } from "./coding.js";

export const GAUSSIAN_WORDS = 40;
export const PAIR_WORDS = 20;

const MEAN_UNIT = 1024;  // position differences are kept away from half precision's subnormals
const SH = 11, SHEEN = 14, COLUMNS = 59;
const ONE = new Float32Array(1), BITS = new Uint32Array(ONE.buffer);

/** The bits of a number rounded to a half; too large ones become infinite. */
export function half(value) {
  ONE[0] = value;
  const bits = BITS[0], sign = (bits >>> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size >= 0x47800000) return sign | (size > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (size < 0x38800000) return sign | Math.round(Math.abs(value) * 16777216);  // subnormal: multiples of 2^-24
  return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
}

function fraction(value) {
  return Math.round(Math.min(Math.max(value, 0), 1) * 65535);
}

/** The table of the Gaussians [n, 40 words], without sheen and without differences. */
export function assembleGaussians(meta, tables) {
  const { gaussians: count, steps, parents } = meta, words = new Uint32Array(GAUSSIAN_WORDS * count);
  const singles = new Float32Array(words.buffer), halves = new Uint16Array(words.buffer);
  const { triangle, coarse, barycentric, weights, means, shape } = tables, bones = parents.length + 2;
  for (let n = 0; n < count; ++n) {
    const word = GAUSSIAN_WORDS * n, growth = 2 ** coarse[n], row = 11 * n;
    for (let i = 0; i < 3; ++i) {
      singles[word + i] = means[3 * n + i] * steps[i];
      singles[word + 4 + i] = shape[row + 4 + i] * steps[7 + i] * growth;
      halves[2 * (word + 16) + 16 * i] = half(shape[row + 8 + i] * steps[SH + i] * growth);
    }
    words[word + 3] = triangle[n] + 1;
    singles[word + 7] = shape[row + 7] * steps[10] * growth;
    for (let i = 0; i < 4; ++i) halves[2 * (word + 8) + i] = half(shape[row + i] * steps[3 + i] * growth);
    for (let i = 0; i < 2; ++i) halves[2 * (word + 10) + i] = fraction(barycentric[2 * n + i] * meta.barycentricStep);
    let sum = 0;
    for (let bone = 0; bone < bones; ++bone) sum += weights[bones * n + bone];
    for (let bone = 0; bone < bones; ++bone) halves[2 * (word + 12) + bone] = fraction(weights[bones * n + bone] / sum);
  }
  return words;
}

/** Put into the Gaussians' table how their colours depend on the view. */
export function addSheen(meta, tables, words) {
  const halves = new Uint16Array(words.buffer), { coarse, sheen, sheenAxes } = tables, width = COLUMNS - SHEEN;
  const row = new Float64Array(width);
  for (let n = 0; n < meta.gaussians; ++n) {
    const to = 2 * (GAUSSIAN_WORDS * n + 16), growth = 2 ** coarse[n];
    alongAxes(sheen, width * n, sheenAxes, row);
    for (let i = 0; i < width; ++i) {
      halves[to + 16 * (i % 3) + 1 + Math.floor(i / 3)] = half(row[i] * meta.steps[SHEEN + i] * growth);
    }
  }
}

/** row[i] = sum over k of numbers[first + k] * axes[k, i]; most of the numbers are 0. */
function alongAxes(numbers, first, axes, row) {
  const width = row.length;
  row.fill(0);
  for (let k = 0; k < width; ++k) {
    const number = numbers[first + k], axis = width * k;
    if (number) for (let i = 0; i < width; ++i) row[i] += number * axes[axis + i];
  }
}

/** The table of the differences [P, 20 words]; where they lie is put into the Gaussians' table `words`. */
export function assemblePairs(meta, tables, words) {
  const { pairCount, pairExpression, pairValues, pairAxes, coarse, reach } = tables, starts = startsOf(pairCount);
  const pairs = new Uint32Array(PAIR_WORDS * meta.pairs), row = new Float64Array(COLUMNS);
  for (let n = 0; n < meta.gaussians; ++n) {
    const word = GAUSSIAN_WORDS * n;
    words[word + 3] = (words[word + 3] & 0xffffff) | (pairCount[n] << 24);
    words[word + 11] = starts[n];
    for (let p = starts[n]; p < starts[n + 1]; ++p) {
      const unit = 2 ** coarse[n] / reach[pairExpression[p]];
      alongAxes(pairValues, COLUMNS * p, pairAxes, row);
      for (let i = 0; i < COLUMNS; ++i) row[i] *= meta.steps[i] * unit;
      writePair(pairs, p, row, pairExpression[p]);
    }
  }
  return pairs;
}

function writePair(pairs, p, row, expression) {
  const word = PAIR_WORDS * p, halves = new Uint16Array(pairs.buffer, 4 * word, 12);
  for (let i = 0; i < SH; ++i) halves[i] = half(i < 3 ? row[i] * MEAN_UNIT : row[i]);
  halves[11] = expression;
  let largest = 0;
  for (let i = SH; i < COLUMNS; ++i) largest = Math.max(largest, Math.abs(row[i]));
  ONE[0] = largest / 127;
  pairs[word + 6] = BITS[0];
  if (!largest) return;
  const step = ONE[0], bytes = new Int8Array(pairs.buffer, 4 * (word + 8), 48);
  for (let i = 0; i < 48; ++i) bytes[16 * (i % 3) + Math.floor(i / 3)] = Math.round(row[SH + i] / step);
}
