// Projection of one Gaussian to a splat, and its gradient. Shared by the C++ and the CUDA library.
#pragma once

#include "splat.h"

template <typename T>
struct Camera {
    Mat3<T> R;  // world to camera
    Vec3<T> t;
    Vec3<T> k0, k1;  // first two rows of K, in pixels; the third is (0, 0, 1)
    T limit_x, limit_y;
    int width, height;
};

template <typename T>
HD Camera<T> load_camera(const T* R, const T* t, const T* K, int width, int height) {
    Camera<T> camera{load_mat3(R), load3(t), load3(K), load3(K + 3), 0, 0, width, height};
    camera.limit_x = T(constants::JACOBIAN_LIMIT) * width / (2 * camera.k0.x);  // 1.3 tan(fov / 2)
    camera.limit_y = T(constants::JACOBIAN_LIMIT) * height / (2 * camera.k1.y);
    return camera;
}

template <typename T>
struct Gaussian {
    Vec3<T> mean;
    Quat<T> quat;
    Vec3<T> scale;
    T opacity;
    Vec3<T> color;
};

template <typename T>
struct CameraGradient {
    Mat3<T> R;
    Vec3<T> t, k0, k1;
};

// The 2D covariance is M M^T + DILATION I with M = U R Q S: U (2x3) the Jacobian of the projection, R the camera's
// rotation, Q the Gaussian's and S its scales.
template <typename T>
struct Projection {
    Vec3<T> point;                 // in the camera's frame
    T inverse_z, u, v;             // u, v: x/z and y/z
    T clamped_u, clamped_v;        // as the Jacobian uses them
    Vec3<T> jacobian0, jacobian1;  // rows of U
    Mat3<T> rotation;              // Q
    Mat3<T> axes;                  // Q S
    Vec3<T> m0, m1;                // rows of M
    T xx, xy, yy, determinant;     // 2D covariance, dilated
};

template <typename T>
HD T clamp_to(T value, T limit) {
    return value < -limit ? -limit : (value > limit ? limit : value);
}

template <typename T>
HD bool is_finite(T value) {
    return value - value == T(0);
}

template <typename T>
HD Projection<T> project(const Camera<T>& camera, const Gaussian<T>& g) {
    Projection<T> p;
    p.point = camera.R * g.mean + camera.t;
    p.inverse_z = T(1) / p.point.z;
    p.u = p.point.x * p.inverse_z;
    p.v = p.point.y * p.inverse_z;
    p.clamped_u = clamp_to(p.u, camera.limit_x);
    p.clamped_v = clamp_to(p.v, camera.limit_y);
    const T z = p.inverse_z;
    const Vec3<T> k0 = camera.k0, k1 = camera.k1;
    p.jacobian0 = {k0.x * z, k0.y * z, -(k0.x * p.clamped_u + k0.y * p.clamped_v) * z};
    p.jacobian1 = {k1.x * z, k1.y * z, -(k1.x * p.clamped_u + k1.y * p.clamped_v) * z};
    p.rotation = quat_to_matrix(g.quat);
    for (int i = 0; i < 3; ++i) {
        const Vec3<T> row = p.rotation.row[i];
        p.axes.row[i] = {row.x * g.scale.x, row.y * g.scale.y, row.z * g.scale.z};
    }
    p.m0 = transpose_times(p.axes, transpose_times(camera.R, p.jacobian0));
    p.m1 = transpose_times(p.axes, transpose_times(camera.R, p.jacobian1));
    const T xx = dot(p.m0, p.m0), yy = dot(p.m1, p.m1), dilation = T(constants::DILATION);
    p.xx = xx + dilation;
    p.yy = yy + dilation;
    p.xy = dot(p.m0, p.m1);
    // det(M M^T) is the sum of the squared 2x2 minors (Cauchy-Binet): never negative, however thin the splat.
    const Vec3<T> minors = cross(p.m0, p.m1);
    p.determinant = dot(minors, minors) + dilation * (xx + yy + dilation);
    return p;
}

// The splat of a projected Gaussian, and whether it can touch any pixel at all: in front of the near plane, everything
// finite, opacity above the alpha cut.
template <typename T>
HD bool make_splat(const Camera<T>& camera, const Gaussian<T>& g, const Projection<T>& p, Splat<T>& s) {
    using std::log2;
    using std::sqrt;
    if (!(p.point.z > T(constants::NEAR_PLANE))) return false;
    const T half_log2_e = T(0.5 * constants::LOG2_E);
    s.x = camera.k0.x * p.u + camera.k0.y * p.v + camera.k0.z - T(0.5);
    s.y = camera.k1.x * p.u + camera.k1.y * p.v + camera.k1.z - T(0.5);
    s.fall = half_log2_e / p.yy;
    s.shear_x = sqrt(half_log2_e * p.yy / p.determinant);
    s.shear_y = -s.shear_x * p.xy / p.yy;
    s.peak = log2(g.opacity);
    const T reach = (s.peak - T(constants::LOG2_ALPHA_MIN)) / half_log2_e;
    s.half_width = sqrt(reach * p.xx);
    s.half_height = sqrt(reach * p.yy);
    for (int i = 0; i < 3; ++i) s.color[i] = g.color[i];
    const T sum = s.x + s.y + s.shear_x + s.shear_y + s.peak + s.half_width + s.half_height + dot(g.color, g.color);
    return is_finite(sum) && s.fall > T(0) && s.shear_x > T(0);
}

// Radius in pixels for statistics and for the familiar interface: 3 standard deviations along the longer axis; 0 if the
// box around alpha >= ALPHA_MIN holds no pixel.
template <typename T>
HD int splat_radius(const Camera<T>& camera, const Projection<T>& p, const Splat<T>& s) {
    using std::ceil;
    using std::sqrt;
    const bool in_x = s.x + s.half_width >= T(0) && s.x - s.half_width <= T(camera.width - 1);
    const bool in_y = s.y + s.half_height >= T(0) && s.y - s.half_height <= T(camera.height - 1);
    if (!in_x || !in_y) return 0;
    const T middle = T(0.5) * (p.xx + p.yy);
    const T discriminant = middle * middle - p.determinant;
    const T floor = T(constants::DISCRIMINANT_MIN);
    const T radius =
        ceil(T(constants::RADIUS_SIGMAS) * sqrt(middle + sqrt(discriminant > floor ? discriminant : floor)));
    return radius < T(1 << 30) ? static_cast<int>(radius) : 1 << 30;
}

// Sums over a splat's pixels of g, g d, g d d^T, where g is the gradient with respect to log alpha and d = pixel -
// mean, and of the gradient with respect to its colour. `screen` is the sum of g d without the alpha output's part.
template <typename T>
struct SplatGradient {
    T g, x, y, xx, xy, yy;
    T color[3];
    T screen_x, screen_y;
};

// Inverse 2D covariance Q; dlog(alpha)/dmean = Q d.
template <typename T>
struct Conic {
    T xx, xy, yy;
};

template <typename T>
HD Conic<T> conic_of(const Projection<T>& p) {
    return {p.yy / p.determinant, -p.xy / p.determinant, p.xx / p.determinant};
}

template <typename T>
struct GaussianGradient {
    Vec3<T> mean;
    Quat<T> quat;
    Vec3<T> scale;
    T opacity;
};

// Gradient with respect to the rows of U, given that with respect to M = U R Q S; also scales, quaternion, R.
template <typename T>
HD void covariance_backward(const Camera<T>& camera, const Gaussian<T>& g, const Projection<T>& p, Vec3<T> v_m0,
                            Vec3<T> v_m1, GaussianGradient<T>& out, CameraGradient<T>& v_camera, Vec3<T>& v_jacobian0,
                            Vec3<T>& v_jacobian1) {
    const Vec3<T> n0 = transpose_times(camera.R, p.jacobian0), n1 = transpose_times(camera.R, p.jacobian1);
    const Mat3<T> v_axes = outer(n0, v_m0) + outer(n1, v_m1);
    Mat3<T> v_rotation;
    out.scale = {0, 0, 0};
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            out.scale[j] += v_axes(i, j) * p.rotation(i, j);
            v_rotation(i, j) = v_axes(i, j) * g.scale[j];
        }
    }
    out.quat = quat_to_matrix_backward(g.quat, v_rotation);
    const Vec3<T> v_n0 = p.axes * v_m0, v_n1 = p.axes * v_m1;
    v_jacobian0 = camera.R * v_n0;
    v_jacobian1 = camera.R * v_n1;
    v_camera.R = v_camera.R + outer(p.jacobian0, v_n0) + outer(p.jacobian1, v_n1);
}

// Gradient of one clamped ratio: passes to the ratio inside the limit, and to the limit's focal length outside it
// (limit = 1.3 size / (2 focal)).
template <typename T>
HD void clamp_backward(T ratio, T limit, T focal, T v_clamped, T& v_ratio, T& v_focal) {
    if (ratio > limit) {
        v_focal -= v_clamped * limit / focal;
    } else if (ratio < -limit) {
        v_focal += v_clamped * limit / focal;
    } else {
        v_ratio += v_clamped;
    }
}

// Gradient of project() and make_splat(); adds to v_camera. v_x, v_y: gradient with respect to the 2D mean.
template <typename T>
HD GaussianGradient<T> project_backward(const Camera<T>& camera, const Gaussian<T>& g, const Projection<T>& p,
                                        const SplatGradient<T>& v, CameraGradient<T>& v_camera) {
    GaussianGradient<T> out;
    out.opacity = v.g / g.opacity;
    const Conic<T> q = conic_of(p);
    const T v_x = q.xx * v.x + q.xy * v.y, v_y = q.xy * v.x + q.yy * v.y;
    // d log(alpha) = 1/2 (Q d)^T dCov (Q d), so the gradient of Cov is 1/2 Q E Q with E = sum g d d^T; twice that times
    // M is the gradient of M.
    const T a = q.xx * v.xx + q.xy * v.xy, b = q.xx * v.xy + q.xy * v.yy;
    const T c = q.xy * v.xx + q.yy * v.xy, d = q.xy * v.xy + q.yy * v.yy;
    const T w_xx = a * q.xx + b * q.xy, w_xy = a * q.xy + b * q.yy, w_yy = c * q.xy + d * q.yy;
    const Vec3<T> v_m0 = w_xx * p.m0 + w_xy * p.m1, v_m1 = w_xy * p.m0 + w_yy * p.m1;
    Vec3<T> j0, j1;
    covariance_backward(camera, g, p, v_m0, v_m1, out, v_camera, j0, j1);

    const Vec3<T> k0 = camera.k0, k1 = camera.k1;
    const T z = p.inverse_z, tu = p.clamped_u, tv = p.clamped_v;
    v_camera.k0 += Vec3<T>{z * (j0.x - j0.z * tu) + v_x * p.u, z * (j0.y - j0.z * tv) + v_x * p.v, v_x};
    v_camera.k1 += Vec3<T>{z * (j1.x - j1.z * tu) + v_y * p.u, z * (j1.y - j1.z * tv) + v_y * p.v, v_y};
    T v_z = j0.x * k0.x + j0.y * k0.y - j0.z * (k0.x * tu + k0.y * tv);
    v_z += j1.x * k1.x + j1.y * k1.y - j1.z * (k1.x * tu + k1.y * tv);
    T v_u = v_x * k0.x + v_y * k1.x, v_v = v_x * k0.y + v_y * k1.y;
    clamp_backward(p.u, camera.limit_x, k0.x, -z * (j0.z * k0.x + j1.z * k1.x), v_u, v_camera.k0.x);
    clamp_backward(p.v, camera.limit_y, k1.y, -z * (j0.z * k0.y + j1.z * k1.y), v_v, v_camera.k1.y);
    v_z += v_u * p.point.x + v_v * p.point.y;  // so far with respect to 1/z
    const Vec3<T> v_point{v_u * z, v_v * z, -v_z * z * z};
    out.mean = transpose_times(camera.R, v_point);
    v_camera.R = v_camera.R + outer(v_point, g.mean);
    v_camera.t += v_point;
    return out;
}
