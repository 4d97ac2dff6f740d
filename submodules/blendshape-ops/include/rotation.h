// Matrix to quaternion and polar decomposition, with their gradients.
#pragma once

#include "vec.h"

// Quaternion of a rotation by whichever of the four formulas divides by the largest number. `kind` is that formula's
// index (0: w, 1: x, 2: y, 3: z is the largest component, and positive).
template <typename T>
HD Quat<T> matrix_to_quaternion(const Mat3<T>& m, int& kind) {
    const T squares[4] = {1 + m(0, 0) + m(1, 1) + m(2, 2), 1 + m(0, 0) - m(1, 1) - m(2, 2),
                          1 - m(0, 0) + m(1, 1) - m(2, 2), 1 - m(0, 0) - m(1, 1) + m(2, 2)};
    kind = 0;
    for (int i = 1; i < 4; ++i) {
        if (squares[i] > squares[kind]) kind = i;
    }
    const T s = squares[kind] > T(0.1) ? squares[kind] : T(0.1);  // at least 1 for a rotation
    const T scale = T(0.5) / std::sqrt(s);
    const T wx = m(2, 1) - m(1, 2), wy = m(0, 2) - m(2, 0), wz = m(1, 0) - m(0, 1);
    const T xy = m(1, 0) + m(0, 1), xz = m(0, 2) + m(2, 0), yz = m(2, 1) + m(1, 2);
    const T own = scale * squares[kind];
    if (kind == 0) return {own, scale * wx, scale * wy, scale * wz};
    if (kind == 1) return {scale * wx, own, scale * xy, scale * xz};
    if (kind == 2) return {scale * wy, scale * xy, own, scale * yz};
    return {scale * wz, scale * xz, scale * yz, own};
}

// Gradient with respect to the matrix, where q, kind come from matrix_to_quaternion. With s the largest square and
// u the numerators, q = u / (2 sqrt(s)), and the largest component is sqrt(s) / 2.
template <typename T>
HD Mat3<T> matrix_to_quaternion_backward(Quat<T> q, int kind, Quat<T> v) {
    const T values[4] = {q.w, q.x, q.y, q.z};
    const T gradients[4] = {v.w, v.x, v.y, v.z};
    const T root = 2 * values[kind];  // sqrt(s)
    const T scale = T(0.5) / root;
    const T inner = q.w * v.w + q.x * v.x + q.y * v.y + q.z * v.z;
    const T own = scale * gradients[kind] - T(0.5) * inner / (root * root);
    T g[4];
    for (int i = 0; i < 4; ++i) g[i] = scale * gradients[i];
    // Which pair each numerator stands for: wx and yz belong to (1,2), wy and xz to (2,0), wz and xy to (0,1).
    const T wx = kind == 0 ? g[1] : kind == 1 ? g[0] : T(0), yz = kind == 2 ? g[3] : kind == 3 ? g[2] : T(0);
    const T wy = kind == 0 ? g[2] : kind == 2 ? g[0] : T(0), xz = kind == 1 ? g[3] : kind == 3 ? g[1] : T(0);
    const T wz = kind == 0 ? g[3] : kind == 3 ? g[0] : T(0), xy = kind == 1 ? g[2] : kind == 2 ? g[1] : T(0);
    const T d0 = kind == 0 || kind == 1 ? own : -own;
    const T d1 = kind == 0 || kind == 2 ? own : -own;
    const T d2 = kind == 0 || kind == 3 ? own : -own;
    return {{{d0, xy - wz, xz + wy}, {xy + wz, d1, yz - wx}, {xz - wy, yz + wx, d2}}};
}

template <typename T>
HD Mat3<T> polar_step(const Mat3<T>& x) {
    const Mat3<T> sum = x + inverse_transpose(x);
    return {{T(0.5) * sum.row[0], T(0.5) * sum.row[1], T(0.5) * sum.row[2]}};
}

// Nearest rotation by three Newton steps X <- (X + X^-T) / 2 (Higham 1986): a matrix 5 % away from a rotation becomes
// orthogonal to 2e-7.
template <typename T>
HD Mat3<T> polar3(const Mat3<T>& x) {
    return polar_step(polar_step(polar_step(x)));
}

// Through Y = X^-T, dY = -Y dX^T Y, so the gradient of one step is (V - Y V^T Y) / 2.
template <typename T>
HD Mat3<T> polar_step_backward(const Mat3<T>& x, const Mat3<T>& v) {
    const Mat3<T> y = inverse_transpose(x);
    const Mat3<T> through_inverse = y * transpose(v) * y;
    Mat3<T> gradient;
    for (int i = 0; i < 3; ++i) gradient.row[i] = T(0.5) * (v.row[i] - through_inverse.row[i]);
    return gradient;
}

template <typename T>
HD Mat3<T> polar3_backward(const Mat3<T>& x0, const Mat3<T>& v) {
    const Mat3<T> x1 = polar_step(x0), x2 = polar_step(x1);
    return polar_step_backward(x0, polar_step_backward(x1, polar_step_backward(x2, v)));
}
