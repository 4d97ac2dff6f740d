// Small vectors and matrices, templated on the scalar and usable on host and device.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif

template <typename T>
struct Vec3 {
    T x, y, z;
    HD T& operator[](int i) { return (&x)[i]; }
    HD const T& operator[](int i) const { return (&x)[i]; }
};

template <typename T>
HD Vec3<T> load3(const T* p) {
    return {p[0], p[1], p[2]};
}
template <typename T>
HD void store3(T* p, Vec3<T> a) {
    p[0] = a.x;
    p[1] = a.y;
    p[2] = a.z;
}
template <typename T>
HD Vec3<T> operator+(Vec3<T> a, Vec3<T> b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <typename T>
HD Vec3<T> operator-(Vec3<T> a, Vec3<T> b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <typename T>
HD Vec3<T> operator*(T s, Vec3<T> a) {
    return {s * a.x, s * a.y, s * a.z};
}
template <typename T>
HD Vec3<T>& operator+=(Vec3<T>& a, Vec3<T> b) {
    a.x += b.x;
    a.y += b.y;
    a.z += b.z;
    return a;
}
template <typename T>
HD T dot(Vec3<T> a, Vec3<T> b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <typename T>
HD Vec3<T> cross(Vec3<T> a, Vec3<T> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// 3x3, row-major.
template <typename T>
struct Mat3 {
    Vec3<T> row[3];
    HD T& operator()(int i, int j) { return row[i][j]; }
    HD const T& operator()(int i, int j) const { return row[i][j]; }
};

template <typename T>
HD Mat3<T> load_mat3(const T* p) {
    return {{load3(p), load3(p + 3), load3(p + 6)}};
}
template <typename T>
HD void store_mat3(T* p, const Mat3<T>& m) {
    for (int i = 0; i < 3; ++i) store3(p + 3 * i, m.row[i]);
}
template <typename T>
HD Vec3<T> operator*(const Mat3<T>& m, Vec3<T> a) {
    return {dot(m.row[0], a), dot(m.row[1], a), dot(m.row[2], a)};
}
// m^T a
template <typename T>
HD Vec3<T> transpose_times(const Mat3<T>& m, Vec3<T> a) {
    return a.x * m.row[0] + a.y * m.row[1] + a.z * m.row[2];
}
template <typename T>
HD Mat3<T> transpose(const Mat3<T>& m) {
    return {{{m(0, 0), m(1, 0), m(2, 0)}, {m(0, 1), m(1, 1), m(2, 1)}, {m(0, 2), m(1, 2), m(2, 2)}}};
}
template <typename T>
HD Mat3<T> operator*(const Mat3<T>& a, const Mat3<T>& b) {
    return {{transpose_times(b, a.row[0]), transpose_times(b, a.row[1]), transpose_times(b, a.row[2])}};
}
template <typename T>
HD Mat3<T> operator+(const Mat3<T>& a, const Mat3<T>& b) {
    return {{a.row[0] + b.row[0], a.row[1] + b.row[1], a.row[2] + b.row[2]}};
}
// a b^T
template <typename T>
HD Mat3<T> outer(Vec3<T> a, Vec3<T> b) {
    return {{a.x * b, a.y * b, a.z * b}};
}
template <typename T>
HD T determinant(const Mat3<T>& m) {
    return dot(m.row[0], cross(m.row[1], m.row[2]));
}
// Transposed inverse: the cofactor matrix over the determinant. A singular matrix gives infinities or NaN.
template <typename T>
HD Mat3<T> inverse_transpose(const Mat3<T>& m) {
    const T s = T(1) / determinant(m);
    return {{s * cross(m.row[1], m.row[2]), s * cross(m.row[2], m.row[0]), s * cross(m.row[0], m.row[1])}};
}

// Real part first, Hamilton product.
template <typename T>
struct Quat {
    T w, x, y, z;
};

template <typename T>
HD Quat<T> load_quat(const T* p) {
    return {p[0], p[1], p[2], p[3]};
}
template <typename T>
HD void store_quat(T* p, Quat<T> q) {
    p[0] = q.w;
    p[1] = q.x;
    p[2] = q.y;
    p[3] = q.z;
}
template <typename T>
HD Quat<T> conjugate(Quat<T> q) {
    return {q.w, -q.x, -q.y, -q.z};
}
template <typename T>
HD Quat<T> operator*(Quat<T> a, Quat<T> b) {
    return {a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z, a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
            a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x, a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}

// Rotation matrix of a unit quaternion; the polynomial 1 - 2(y^2 + z^2), ... is used as it is for other lengths.
template <typename T>
HD Mat3<T> quat_to_matrix(Quat<T> q) {
    return {{{1 - 2 * (q.y * q.y + q.z * q.z), 2 * (q.x * q.y - q.w * q.z), 2 * (q.x * q.z + q.w * q.y)},
             {2 * (q.x * q.y + q.w * q.z), 1 - 2 * (q.x * q.x + q.z * q.z), 2 * (q.y * q.z - q.w * q.x)},
             {2 * (q.x * q.z - q.w * q.y), 2 * (q.y * q.z + q.w * q.x), 1 - 2 * (q.x * q.x + q.y * q.y)}}};
}

// Gradient of quat_to_matrix: v is the gradient with respect to the matrix.
template <typename T>
HD Quat<T> quat_to_matrix_backward(Quat<T> q, const Mat3<T>& v) {
    const T a = v(2, 1) - v(1, 2), b = v(0, 2) - v(2, 0), c = v(1, 0) - v(0, 1);
    const T xy = v(0, 1) + v(1, 0), xz = v(0, 2) + v(2, 0), yz = v(1, 2) + v(2, 1);
    return {2 * (q.x * a + q.y * b + q.z * c), 2 * (q.y * xy + q.z * xz + q.w * a) - 4 * q.x * (v(1, 1) + v(2, 2)),
            2 * (q.x * xy + q.z * yz + q.w * b) - 4 * q.y * (v(0, 0) + v(2, 2)),
            2 * (q.x * xz + q.y * yz + q.w * c) - 4 * q.z * (v(0, 0) + v(1, 1))};
}
