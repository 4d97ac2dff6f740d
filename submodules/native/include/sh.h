// Real spherical harmonics up to degree 3 in the basis and signs of 3D Gaussian splatting, as polynomials of a
// direction.
#pragma once

#include "vec.h"

constexpr int SH_MAX_DEGREE = 3;
constexpr int SH_MAX_COEFFICIENTS = 16;

HD constexpr int sh_coefficients(int degree) {
    return (degree + 1) * (degree + 1);
}

namespace sh_constants {
constexpr double C0 = 0.28209479177387814;  // 1 / (2 sqrt(pi))
constexpr double C1 = 0.4886025119029199;   // sqrt(3 / (4 pi))
constexpr double C2_XY = 1.0925484305920792, C2_ZZ = 0.31539156525252005, C2_XX = 0.5462742152960396;
constexpr double C3_YXX = 0.5900435899266435, C3_XYZ = 2.890611442640554, C3_YZZ = 0.4570457994644658;
constexpr double C3_ZZZ = 0.3731763325901154, C3_ZXX = 1.445305721320277;
}  // namespace sh_constants

// values[0 .. sh_coefficients(degree)) at the unit direction d.
template <typename T>
HD void sh_basis(Vec3<T> d, int degree, T* values) {
    using namespace sh_constants;
    const T x = d.x, y = d.y, z = d.z;
    values[0] = T(C0);
    if (degree < 1) return;
    values[1] = -T(C1) * y;
    values[2] = T(C1) * z;
    values[3] = -T(C1) * x;
    if (degree < 2) return;
    const T xx = x * x, yy = y * y, zz = z * z;
    values[4] = T(C2_XY) * x * y;
    values[5] = -T(C2_XY) * y * z;
    values[6] = T(C2_ZZ) * (2 * zz - xx - yy);
    values[7] = -T(C2_XY) * x * z;
    values[8] = T(C2_XX) * (xx - yy);
    if (degree < 3) return;
    values[9] = -T(C3_YXX) * y * (3 * xx - yy);
    values[10] = T(C3_XYZ) * x * y * z;
    values[11] = -T(C3_YZZ) * y * (4 * zz - xx - yy);
    values[12] = T(C3_ZZZ) * z * (2 * zz - 3 * xx - 3 * yy);
    values[13] = -T(C3_YZZ) * x * (4 * zz - xx - yy);
    values[14] = T(C3_ZXX) * z * (xx - yy);
    values[15] = -T(C3_YXX) * x * (xx - 3 * yy);
}

// sum_j v[j] dY_j/dd: gradient with respect to the direction, its components taken as independent variables.
template <typename T>
HD Vec3<T> sh_basis_backward(Vec3<T> d, int degree, const T* v) {
    using namespace sh_constants;
    const T x = d.x, y = d.y, z = d.z;
    Vec3<T> g{0, 0, 0};
    if (degree < 1) return g;
    g += T(C1) * Vec3<T>{-v[3], -v[1], v[2]};
    if (degree < 2) return g;
    g += T(C2_XY) * Vec3<T>{v[4] * y - v[7] * z, v[4] * x - v[5] * z, -v[5] * y - v[7] * x};
    g += 2 * T(C2_ZZ) * v[6] * Vec3<T>{-x, -y, 2 * z};
    g += 2 * T(C2_XX) * v[8] * Vec3<T>{x, -y, 0};
    if (degree < 3) return g;
    const T xx = x * x, yy = y * y, zz = z * z;
    g += -T(C3_YXX) * v[9] * Vec3<T>{6 * x * y, 3 * (xx - yy), 0};
    g += T(C3_XYZ) * v[10] * Vec3<T>{y * z, x * z, x * y};
    g += -T(C3_YZZ) * v[11] * Vec3<T>{-2 * x * y, 4 * zz - xx - 3 * yy, 8 * y * z};
    g += T(C3_ZZZ) * v[12] * Vec3<T>{-6 * x * z, -6 * y * z, 6 * zz - 3 * xx - 3 * yy};
    g += -T(C3_YZZ) * v[13] * Vec3<T>{4 * zz - 3 * xx - yy, -2 * x * y, 8 * x * z};
    g += T(C3_ZXX) * v[14] * Vec3<T>{2 * x * z, -2 * y * z, xx - yy};
    g += -T(C3_YXX) * v[15] * Vec3<T>{3 * (xx - yy), -6 * x * y, 0};
    return g;
}
