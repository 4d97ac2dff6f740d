// From codes and cameras to everything that moves the Gaussians of a frame: the mathematics shared by the CPU and CUDA
// builds. It equals flame/pose.py and scene/rig.py, rearranged so that no vertex is formed.
#pragma once

#include <cstdint>

#include "blend.h"

constexpr int JOINTS = 5;           // root, neck, jaw, left eye, right eye
constexpr int BONES = JOINTS + 2;   // and the rigid skull, and the lower teeth
constexpr int FEATURES = 9 * (JOINTS - 1);
constexpr int JOINT_ROWS = 3 * JOINTS;
constexpr int MOMENT_ROWS = 12 * JOINTS;
constexpr int LINEAR_ROWS = JOINT_ROWS + MOMENT_ROWS;
constexpr double CODE_SLACK = 0.1;  // as in blendshape_ops/codes.py

// Mirrored field by field in blendshape_ops/play.py and in mirrors.h. B frames, E expressions of the head of which the first K move
// Gaussians, F triangles, Q pairs of a triangle and an expression, V vertices.
template <typename T>
struct DriveArgs {
    int64_t frames, head_expressions, expressions, features, triangles, vertices, threads;
    // Codes: [B,E], 6D rotations (two rows) [B,6], [B,6], [B,12], [B,2]; world-to-camera [B,3,3], [B,3].
    const T *expression, *neck, *jaw, *eyes, *eyelids, *R, *t;
    // What is linear in x = (expression [E], R_j - I of joints 1.. [36], these only with pose correctives):
    // base [75] + linear^T x, linear [E + features, 75]. Rows: rest joints [5][3], then the moment of the anchor
    // [joint j][axis a][4]: sum over its vertices v of share w_vj shaped_va (rest_v - mean, 1).
    const T *base, *linear;
    // Besides: sum of share w_vj (rest_v - mean, 1) [5,4]; of share lid_va (rest_v - mean, 1) [2,3,4]; the anchor's
    // mean [3]; skinning weights of the lower teeth [5].
    const T *anchor_weights, *anchor_lids, *anchor_mean, *lower_weights;
    const int32_t* parents;                            // [5], parents before children
    const T* code_range;                               // [2,K]
    const int32_t *map_offsets, *map_expression;       // [F+1], [Q]
    const T* map_values;                               // [Q,16]
    const T *pose_dirs, *eyelid_dirs;                  // [36,3V], [2,3V], each or null
    T *beta, *bones, *camera_centers, *triangle_maps;  // [B,K], [B,7,3,4], [B,3], [B,F,16]
    T *pre_offsets, *post_offsets;                     // [B,V,3], each null with its directions
};

template <typename T>
HD Mat3<T> identity3() {
    return {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
}

// Gram-Schmidt on two rows.
template <typename T>
HD Mat3<T> matrix_from_6d(const T* six) {
    Vec3<T> first = load3(six), second = load3(six + 3);
    first = (1 / norm_floored(first)) * first;
    second = second + (-dot(first, second)) * first;
    second = (1 / norm_floored(second)) * second;
    return {{first, second, cross(first, second)}};
}

// Rotation of joint 1..4 relative to its parent.
template <typename T>
HD Mat3<T> joint_turn(const DriveArgs<T>& a, int64_t b, int joint) {
    return matrix_from_6d(joint == 1 ? a.neck + 6 * b : joint == 2 ? a.jaw + 6 * b : a.eyes + 12 * b + 6 * (joint - 3));
}

// R_j - I, row-major, of joint 1..4.
template <typename T>
HD void store_feature(const Mat3<T>& turn, T* feature) {
    for (int i = 0; i < 9; ++i) feature[i] = turn(i / 3, i % 3) - (i % 4 == 0 ? T(1) : T(0));
}

template <typename T>
HD T frobenius(const Mat3<T>& m) {
    return std::sqrt(dot(m.row[0], m.row[0]) + dot(m.row[1], m.row[1]) + dot(m.row[2], m.row[2]));
}

// Nearest rotation to a matrix of positive determinant, by Newton's iteration with Higham's scaling (1986): 10 steps
// suffice for any condition number below 1e6; the anchor of a head has less than 100.
template <typename T>
HD Mat3<T> nearest_rotation(Mat3<T> x) {
    for (int step = 0; step < 10; ++step) {
        const Mat3<T> y = inverse_transpose(x);
        const T scale = std::sqrt(frobenius(y) / frobenius(x)), keep = T(0.5) * scale, take = T(0.5) / scale;
        for (int i = 0; i < 3; ++i) x.row[i] = keep * x.row[i] + take * y.row[i];
    }
    return x;
}

template <typename T>
HD void store_affine(T* bone, const Mat3<T>& linear, Vec3<T> shift) {
    for (int i = 0; i < 3; ++i) {
        store3(bone + 4 * i, linear.row[i]);
        bone[4 * i + 3] = shift[i];
    }
}

// Bones of frame b from the joints' rotations and the linear quantities: joint transforms, skull, lower teeth.
template <typename T>
HD void pose_bones(const DriveArgs<T>& a, int64_t b, const Mat3<T>* turns, const T* linear) {
    Mat3<T> rotation[JOINTS], moment{}, lower{};
    Vec3<T> place[JOINTS], target_mean{0, 0, 0}, lower_shift{0, 0, 0};
    T* bones = a.bones + b * BONES * 12;
    for (int j = 0; j < JOINTS; ++j) {
        const Vec3<T> joint = load3(linear + 3 * j);
        const int parent = a.parents[j];
        rotation[j] = j ? rotation[parent] * turns[j - 1] : identity3<T>();
        place[j] = j ? place[parent] + rotation[parent] * (joint - load3(linear + 3 * parent)) : joint;
        const Vec3<T> shift = place[j] - rotation[j] * joint;
        store_affine(bones + 12 * j, rotation[j], shift);
        for (int i = 0; i < 3; ++i) lower.row[i] += a.lower_weights[j] * rotation[j].row[i];
        lower_shift += a.lower_weights[j] * shift;
        const T* rows = linear + JOINT_ROWS + 12 * j;
        for (int c = 0; c < 4; ++c) {
            const Vec3<T> sum = rotation[j] * Vec3<T>{rows[c], rows[4 + c], rows[8 + c]} +
                                a.anchor_weights[4 * j + c] * shift;
            for (int i = 0; i < 3; ++i) (c < 3 ? moment(i, c) : target_mean[i]) += sum[i];
        }
    }
    for (int lid = 0; lid < 2; ++lid) {
        const T code = a.eyelids[2 * b + lid];
        for (int i = 0; i < 3; ++i) {
            const T* sums = a.anchor_lids + (3 * lid + i) * 4;
            moment.row[i] += code * load3(sums);
            target_mean[i] += code * sums[3];
        }
    }
    const Mat3<T> skull = nearest_rotation(moment);
    store_affine(bones + 12 * JOINTS, skull, target_mean - skull * load3(a.anchor_mean));
    store_affine(bones + 12 * (JOINTS + 1), lower, lower_shift);
    store3(a.camera_centers + 3 * b, T(-1) * transpose_times(load_mat3(a.R + 9 * b), load3(a.t + 3 * b)));
}

// The share of frame b's codes, 1 at most, of which none lies more than CODE_SLACK outside what training saw; the
// definition is `limit_codes` in blendshape_ops/codes.py.
template <typename T>
HD T code_share(const DriveArgs<T>& a, int64_t b) {
    T share = T(1);
    for (int64_t k = 0; k < a.expressions; ++k) {
        const T code = a.expression[b * a.head_expressions + k];
        const T low = a.code_range[k], high = a.code_range[a.expressions + k];
        const T reach = code > T(0) ? high + T(CODE_SLACK) : low - T(CODE_SLACK);
        if (high > low && code != T(0) && reach / code < share) share = reach / code;
    }
    return share;
}

// Code k, limited to what training saw; it drives the differences.
template <typename T>
HD void limit_code(const DriveArgs<T>& a, int64_t b, int64_t k, T share) {
    const T code = share * a.expression[b * a.head_expressions + k];
    const T low = a.code_range[k], high = a.code_range[a.expressions + k];
    a.beta[b * a.expressions + k] = code < low ? low : code > high ? high : code;
}

// Four of the 16 numbers of triangle f's map in frame b.
template <typename T>
HD void map_quad(const DriveArgs<T>& a, int64_t b, int64_t f, int quad) {
    const T* codes = a.expression + b * a.head_expressions;
    T sum[4] = {};
    for (int64_t q = a.map_offsets[f]; q < a.map_offsets[f + 1]; ++q) {
        const T code = codes[a.map_expression[q]];
        const T* value = a.map_values + q * TRIANGLE_MAP + 4 * quad;
        for (int i = 0; i < 4; ++i) sum[i] += code * value[i];
    }
    T* out = a.triangle_maps + (b * a.triangles + f) * TRIANGLE_MAP + 4 * quad;
    for (int i = 0; i < 4; ++i) out[i] = sum[i];
}

// Coordinate i of 3V: the pose corrective of features [36], and the eyelids' offset.
template <typename T>
HD void vertex_offsets(const DriveArgs<T>& a, int64_t b, int64_t i, const T* features) {
    const int64_t size = 3 * a.vertices;
    if (a.pre_offsets) {
        T sum = 0;
        for (int p = 0; p < FEATURES; ++p) sum += features[p] * a.pose_dirs[p * size + i];
        a.pre_offsets[b * size + i] = sum;
    }
    if (a.post_offsets) {
        const T* code = a.eyelids + 2 * b;
        a.post_offsets[b * size + i] = code[0] * a.eyelid_dirs[i] + code[1] * a.eyelid_dirs[size + i];
    }
}

// A colour in [0,1] as a byte, rounded to nearest; outside it is cut off, NaN is 0.
HD uint8_t color_byte(float value) {
    const float scaled = value * 255.0f + 0.5f;
    return scaled >= 255.0f ? 255 : scaled > 0.0f ? uint8_t(scaled) : 0;
}
