// 3x3 matrices are arrays of 9 in row-major order; vectors are arrays of 3. Rotations act on column vectors.

export const IDENTITY = [1, 0, 0, 0, 1, 0, 0, 0, 1];

export function multiply(a, b) {
  const out = new Array(9);
  for (let i = 0; i < 3; ++i) {
    for (let j = 0; j < 3; ++j) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  }
  return out;
}

export function apply(m, v) {
  return [0, 3, 6].map((i) => m[i] * v[0] + m[i + 1] * v[1] + m[i + 2] * v[2]);
}

export function transpose(m) {
  return [m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]];
}

export function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

export function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

export function add(a, b) {
  return a.map((x, i) => x + b[i]);
}

export function subtract(a, b) {
  return a.map((x, i) => x - b[i]);
}

export function normalized(v) {
  const length = Math.max(Math.sqrt(dot(v, v)), 1e-12);
  return v.map((x) => x / length);
}

/** Gram-Schmidt on two rows. */
export function rotationFrom6d(six) {
  const first = normalized(six.slice(0, 3)), second = six.slice(3, 6);
  const along = dot(first, second);
  const row1 = normalized(second.map((x, i) => x - along * first[i]));
  return [...first, ...row1, ...cross(first, row1)];
}

/** Rodrigues: a rotation vector (radians) to its matrix. */
export function rotationFromVector(v) {
  const angle = Math.sqrt(dot(v, v));
  const sine = angle < 1e-6 ? 1 : Math.sin(angle) / angle;
  const cosine = angle < 1e-6 ? 0.5 : 2 * (Math.sin(angle / 2) / angle) ** 2;
  const skew = [0, -v[2], v[1], v[2], 0, -v[0], -v[1], v[0], 0], squared = multiply(skew, skew);
  return IDENTITY.map((x, i) => x + sine * skew[i] + cosine * squared[i]);
}

/** The inverse of rotationFromVector for angles below pi, which jaws, eyes and necks do not reach. */
export function vectorFromRotation(m) {
  const axis = [m[7] - m[5], m[2] - m[6], m[3] - m[1]].map((x) => x / 2);
  const sine = Math.sqrt(dot(axis, axis)), angle = Math.atan2(sine, (m[0] + m[4] + m[8] - 1) / 2);
  return axis.map((x) => (sine < 1e-9 ? x : (x * angle) / sine));
}

/** X^-T by cofactors over the determinant. */
export function inverseTranspose(m) {
  const rows = [m.slice(0, 3), m.slice(3, 6), m.slice(6, 9)];
  const cofactors = [cross(rows[1], rows[2]), cross(rows[2], rows[0]), cross(rows[0], rows[1])];
  const determinant = dot(rows[0], cofactors[0]);
  return cofactors.flat().map((x) => x / determinant);
}

/** Rotation nearest to a matrix of positive determinant: Newton's iteration, scaled (Higham 1986). */
export function nearestRotation(m) {
  for (let step = 0; step < 40; ++step) {
    const inverse = inverseTranspose(m);
    const scale = Math.sqrt(Math.hypot(...inverse) / Math.hypot(...m));
    const next = m.map((x, i) => 0.5 * (scale * x + inverse[i] / scale));
    const change = Math.hypot(...subtract(next, m));
    m = next;
    if (change < 1e-14) break;
  }
  return m;
}

/** Rigid motion [R | t], 12 numbers in rows, that takes the points `from` best to `to` (Kabsch 1976); flat arrays. */
export function rigidAlign(from, to) {
  const count = from.length / 3, a = [0, 0, 0], b = [0, 0, 0], moment = new Array(9).fill(0);
  for (let i = 0; i < from.length; ++i) {
    a[i % 3] += from[i] / count;
    b[i % 3] += to[i] / count;
  }
  for (let p = 0; p < from.length; p += 3) {
    for (let i = 0; i < 3; ++i) {
      for (let j = 0; j < 3; ++j) moment[3 * i + j] += (to[p + i] - b[i]) * (from[p + j] - a[j]);
    }
  }
  const rotation = nearestRotation(moment);
  return affine(rotation, subtract(b, apply(rotation, a)));
}

/** 3x3 and translation to 12 numbers in rows of four. */
export function affine(linear, shift) {
  return [0, 1, 2].flatMap((i) => [linear[3 * i], linear[3 * i + 1], linear[3 * i + 2], shift[i]]);
}

/** sum of weights[j] * matrices[j], 12 numbers each. */
export function blendAffine(weights, matrices) {
  const out = new Array(12).fill(0);
  matrices.forEach((matrix, j) => {
    const weight = weights[j];
    if (weight !== 0) for (let i = 0; i < 12; ++i) out[i] += weight * matrix[i];
  });
  return out;
}
