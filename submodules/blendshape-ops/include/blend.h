// What happens to one Gaussian in one frame, forward and backward: the mathematics shared by the CPU and CUDA builds.
// Steps are numbered as in docs/architecture.md; the definition is blendshape_ops/reference.py.
#pragma once

#include <cstdint>

#include "rotation.h"
#include "sh.h"

// First columns of the attributes in a packed row. Declared in blendshape_ops/tables.py, which is compared with this when
// a library is loaded.
namespace columns {
constexpr int MEANS = 0, QUATS = 3, LOG_SCALES = 7, OPACITY = 10, SH = 11;
}
constexpr int ROW = 60;                 // floats of a packed row
constexpr int GEOMETRY = columns::SH;   // of them before the SH
constexpr int TRIANGLE_MAP = 16;

HD constexpr int active_columns(int sh_degree) { return GEOMETRY + 3 * sh_coefficients(sh_degree); }

// Everything the operation reads and writes; mirrored field by field in blendshape_ops/native_blend.py and in mirrors.h. Pointers may be
// null where a comment says "or null".
template <typename T>
struct BlendArgs {
    int64_t frames, gaussians, pairs, expressions, triangles, bone_count, vertices, sh_degree, threads;
    int64_t pieces;  // of the order of triangles below
    // Inputs, shapes as in the Python records.
    const T *neutral, *values;
    const int32_t *offsets, *expression;
    const T* mask;
    const int32_t* triangle;
    const T *anchor, *barycentric, *weights, *beta, *triangle_maps, *bones, *camera_centers;
    const int32_t* faces;
    const T *pre_offsets, *post_offsets;  // or null
    // Results.
    T *means, *quats, *scales, *opacities, *colors;
    // Kept for the backward pass, or null: quaternions before normalisation [B,N,4], local view directions [B,N,3],
    // derivative of the colour with respect to that direction [B,N,3,3], position before skinning [B,N,3].
    T *raw_quats, *directions, *color_jacobian, *rest;
    // Gradients of the results.
    const T *v_means, *v_quats, *v_scales, *v_opacities, *v_colors;
    // Gradients: of the neutral table [N,60]; the factors [B,N,11], [B,N,3]; and, each or null, of the skinning
    // transform [B,N,12], the posed position [B,N,3], the view vector [B,N,3] and (CPU only) each pair's coefficient
    // [B,P].
    T *v_neutral, *v_geometry, *v_rgb, *v_skin, *v_posed, *v_view, *v_pairs;
    // Instead of values and mask, forward only: rows and column scales [64] as half.h says, or null.
    const uint16_t* half_values;
    const T* half_scales;
    // GPU only, or null: Gaussians in the order of their triangles [N], and bounds of that order's pieces [pieces + 1],
    // each of one triangle.
    const int32_t *by_triangle, *piece_begin;
};

// Gradients of what many Gaussians share, shaped as the inputs of these names and zero at first; each or null.
template <typename T>
struct SharedGradients {
    T *beta, *triangle_maps, *bones, *camera_centers, *pre_offsets, *post_offsets;
};

template <typename T>
struct Affine {
    Mat3<T> linear;
    Vec3<T> shift;
};

template <typename T>
HD Affine<T> skinning_transform(const BlendArgs<T>& a, int64_t b, int64_t n) {
    T m[12] = {};
    for (int64_t j = 0; j < a.bone_count; ++j) {
        const T weight = a.weights[n * a.bone_count + j];
        const T* bone = a.bones + (b * a.bone_count + j) * 12;
        for (int i = 0; i < 12; ++i) m[i] += weight * bone[i];
    }
    return {{{{m[0], m[1], m[2]}, {m[4], m[5], m[6]}, {m[8], m[9], m[10]}}}, {m[3], m[7], m[11]}};
}

// Barycentric mean of vertex offsets [B,V,3] on Gaussian n's triangle.
template <typename T>
HD Vec3<T> surface_offset(const BlendArgs<T>& a, const T* offsets, int64_t b, int64_t n) {
    Vec3<T> sum{0, 0, 0};
    const int32_t* corners = a.faces + 3 * int64_t(a.triangle[n]);
    for (int c = 0; c < 3; ++c) {
        sum += a.barycentric[3 * n + c] * load3(offsets + (b * a.vertices + corners[c]) * 3);
    }
    return sum;
}

template <typename T>
HD T norm_floored(Vec3<T> a) {
    const T length = std::sqrt(dot(a, a));
    return length > T(1e-12) ? length : T(1e-12);
}

template <typename T>
HD T norm_floored(Quat<T> q) {
    const T length = std::sqrt(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
    return length > T(1e-12) ? length : T(1e-12);
}

template <typename T>
HD Quat<T> scaled(T s, Quat<T> q) {
    return {s * q.w, s * q.x, s * q.y, s * q.z};
}

// Step 7: colour of the direction d in the frame of the unposed Gaussian, from the blended coefficients sh [16][3], and
// where asked for its derivative [3 channels][3 axes] with respect to d.
template <int DEGREE, typename T>
HD Vec3<T> sh_color(const T* sh, Vec3<T> d, T* jacobian) {
    constexpr int COUNT = sh_coefficients(DEGREE);
    T basis[SH_MAX_COEFFICIENTS];
    sh_basis(d, DEGREE, basis);
    Vec3<T> color{0, 0, 0};
    for (int j = 0; j < COUNT; ++j) color += basis[j] * load3(sh + 3 * j);
    for (int c = 0; jacobian && c < 3; ++c) {
        T channel[SH_MAX_COEFFICIENTS];
        for (int j = 0; j < COUNT; ++j) channel[j] = sh[3 * j + c];
        store3(jacobian + 3 * c, sh_basis_backward(d, DEGREE, channel));
    }
    for (int c = 0; c < 3; ++c) {
        const T value = T(0.5) + color[c];
        color[c] = value < 0 ? T(0) : value;  // NaN stays NaN: it must not turn into a colour
    }
    return color;
}

// Steps 1 to 7 for Gaussian n in frame b, whose blended row is raw [60].
template <int DEGREE, typename T>
HD void pose_gaussian(const BlendArgs<T>& a, int64_t b, int64_t n, const T* raw) {
    const int64_t item = b * a.gaussians + n;
    const int32_t triangle = a.triangle[n];
    Vec3<T> x = load3(raw + columns::MEANS);
    Quat<T> q = load_quat(raw + columns::QUATS);
    if (triangle >= 0) {
        const T* map = a.triangle_maps + (b * a.triangles + triangle) * TRIANGLE_MAP;
        x += load_mat3(map) * load3(a.anchor + 3 * n) + load3(map + 9);
        q = {q.w + map[12], q.x + map[13], q.y + map[14], q.z + map[15]};
        if (a.pre_offsets) x += surface_offset(a, a.pre_offsets, b, n);
    }
    const Affine<T> skin = skinning_transform(a, b, n);
    Vec3<T> y = skin.linear * x + skin.shift;
    if (a.post_offsets && triangle >= 0) y += surface_offset(a, a.post_offsets, b, n);

    const Mat3<T> rotation = polar3(skin.linear);
    int kind;
    const Quat<T> turned = matrix_to_quaternion(rotation, kind) * scaled(1 / norm_floored(q), q);
    const Vec3<T> view = y - load3(a.camera_centers + 3 * b);
    const Vec3<T> local = transpose_times(rotation, (1 / norm_floored(view)) * view);
    T* jacobian = a.color_jacobian ? a.color_jacobian + 9 * item : nullptr;

    store3(a.colors + 3 * item, sh_color<DEGREE>(raw + columns::SH, local, jacobian));
    store3(a.means + 3 * item, y);
    store_quat(a.quats + 4 * item, turned);
    for (int i = 0; i < 3; ++i) a.scales[3 * item + i] = std::exp(raw[columns::LOG_SCALES + i]);
    a.opacities[item] = 1 / (1 + std::exp(-raw[columns::OPACITY]));
    if (a.raw_quats) store_quat(a.raw_quats + 4 * item, q);
    if (a.directions) store3(a.directions + 3 * item, local);
    if (a.rest) store3(a.rest + 3 * item, x);
}

// What one (frame, Gaussian) says about its blended row: see Factors in blendshape_ops/tables.py.
template <typename T>
struct RowFactors {
    T geometry[GEOMETRY];
    Vec3<T> rgb, direction;
};

template <typename T>
HD RowFactors<T> load_factors(const T* v_geometry, const T* v_rgb, const T* directions, int64_t item) {
    RowFactors<T> f{{}, load3(v_rgb + 3 * item), load3(directions + 3 * item)};
    for (int i = 0; i < GEOMETRY; ++i) f.geometry[i] = v_geometry[GEOMETRY * item + i];
    return f;
}

// The gradient row [60] that factors stand for: geometry, then Y_j(direction) rgb for j below `coefficients`, then 0.
template <int DEGREE, typename T>
HD void expand_factors(const RowFactors<T>& f, int coefficients, T* row) {
    T basis[SH_MAX_COEFFICIENTS];
    sh_basis(f.direction, DEGREE, basis);
    for (int i = 0; i < GEOMETRY; ++i) row[i] = f.geometry[i];
    for (int j = 0; j < sh_coefficients(DEGREE); ++j) {
        store3(row + columns::SH + 3 * j, (j < coefficients ? basis[j] : T(0)) * f.rgb);
    }
    for (int i = active_columns(DEGREE); i < ROW; ++i) row[i] = 0;
}

// Gradient with respect to the skinning transform [3][4] of one Gaussian.
template <typename T>
HD void skin_backward(Vec3<T> rest, Vec3<T> v_y, const Mat3<T>& linear, const Mat3<T>& v_rotation, T* v_skin) {
    const Mat3<T> v_linear = outer(v_y, rest) + polar3_backward(linear, v_rotation);
    for (int i = 0; i < 3; ++i) {
        store3(v_skin + 4 * i, v_linear.row[i]);
        v_skin[4 * i + 3] = v_y[i];
    }
}

// Backward of pose_gaussian: writes and returns the factors of (b, n), and writes the optional gradients.
template <typename T>
HD RowFactors<T> pose_gaussian_backward(const BlendArgs<T>& a, int64_t b, int64_t n) {
    const int64_t item = b * a.gaussians + n;
    const Affine<T> skin = skinning_transform(a, b, n);
    const Mat3<T> rotation = polar3(skin.linear);
    const Vec3<T> local = load3(a.directions + 3 * item);

    Vec3<T> v_rgb = load3(a.v_colors + 3 * item), v_local{0, 0, 0};
    for (int c = 0; c < 3; ++c) {
        if (!(a.colors[3 * item + c] > 0)) v_rgb[c] = 0;  // clamped
        v_local += v_rgb[c] * load3(a.color_jacobian + 9 * item + 3 * c);
    }
    const Vec3<T> view = load3(a.means + 3 * item) - load3(a.camera_centers + 3 * b);
    const T distance = norm_floored(view);
    const Vec3<T> direction = (1 / distance) * view;
    const Vec3<T> v_direction = rotation * v_local;
    const Vec3<T> v_view = (1 / distance) * (v_direction - dot(direction, v_direction) * direction);
    const Vec3<T> v_y = load3(a.v_means + 3 * item) + v_view;

    int kind;
    const Quat<T> turn = matrix_to_quaternion(rotation, kind);
    const Quat<T> raw_quat = load_quat(a.raw_quats + 4 * item), v_quat = load_quat(a.v_quats + 4 * item);
    const T length = norm_floored(raw_quat);
    const Quat<T> q = scaled(1 / length, raw_quat), v_q = conjugate(turn) * v_quat;
    const T along = q.w * v_q.w + q.x * v_q.x + q.y * v_q.y + q.z * v_q.z;
    const Quat<T> v_raw{v_q.w - along * q.w, v_q.x - along * q.x, v_q.y - along * q.y, v_q.z - along * q.z};

    RowFactors<T> factors{{}, v_rgb, local};
    T* g = factors.geometry;
    store3(g + columns::MEANS, transpose_times(skin.linear, v_y));
    store_quat(g + columns::QUATS, scaled(1 / length, v_raw));
    for (int i = 0; i < 3; ++i) g[columns::LOG_SCALES + i] = a.v_scales[3 * item + i] * a.scales[3 * item + i];
    g[columns::OPACITY] = a.v_opacities[item] * a.opacities[item] * (1 - a.opacities[item]);
    for (int i = 0; i < GEOMETRY; ++i) a.v_geometry[GEOMETRY * item + i] = g[i];
    store3(a.v_rgb + 3 * item, v_rgb);

    if (a.v_posed) store3(a.v_posed + 3 * item, v_y);
    if (a.v_view) store3(a.v_view + 3 * item, v_view);
    if (a.v_skin) {
        const Mat3<T> v_rotation =
            outer(direction, v_local) + matrix_to_quaternion_backward(turn, kind, v_quat * conjugate(q));
        skin_backward(load3(a.rest + 3 * item), v_y, skin.linear, v_rotation, a.v_skin + 12 * item);
    }
    return factors;
}

// What Gaussians of one triangle say about its map and about its corners' offsets, before and after skinning.
template <typename T>
struct SurfaceGradient {
    T map[TRIANGLE_MAP], offsets[2][9];
};

// Adds what (b, n), bound to a triangle, says; needs the backward pass above.
template <typename T>
HD void add_surface_gradient(const BlendArgs<T>& a, const SharedGradients<T>& g, int64_t b, int64_t n,
                             SurfaceGradient<T>& sum) {
    const int64_t item = b * a.gaussians + n;
    const T *v = a.v_geometry + item * GEOMETRY + columns::MEANS, *v_quat = v - columns::MEANS + columns::QUATS;
    if (g.triangle_maps) {
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) sum.map[3 * i + j] += v[i] * a.anchor[3 * n + j];
            sum.map[9 + i] += v[i];
        }
        for (int i = 0; i < 4; ++i) sum.map[12 + i] += v_quat[i];
    }
    const T* gradients[2] = {g.pre_offsets ? v : nullptr, g.post_offsets ? a.v_posed + 3 * item : nullptr};
    for (int k = 0; k < 2; ++k) {
        for (int i = 0; gradients[k] && i < 9; ++i)
            sum.offsets[k][i] += a.barycentric[3 * n + i / 3] * gradients[k][i % 3];
    }
}

// Adds a triangle's sums to the tables. `add`(out, values, count): plainly where one thread has a frame, else
// atomically.
template <typename T, typename Add>
HD void scatter_surface_gradient(const BlendArgs<T>& a, const SharedGradients<T>& g, int64_t b, int64_t triangle,
                                 const SurfaceGradient<T>& sum, Add add) {
    if (g.triangle_maps) add(g.triangle_maps + (b * a.triangles + triangle) * TRIANGLE_MAP, sum.map, TRIANGLE_MAP);
    T* const offsets[2] = {g.pre_offsets, g.post_offsets};
    for (int k = 0; k < 2; ++k) {
        for (int c = 0; offsets[k] && c < 3; ++c)
            add(offsets[k] + (b * a.vertices + a.faces[3 * triangle + c]) * 3, sum.offsets[k] + 3 * c, 3);
    }
}
