// What the Python of this package mirrors of its structures and constants; exported by both libraries as
// blendshape_ops_layout().
#pragma once

#include "adam.h"
#include "blend.h"
#include "half.h"
#include "layout.h"
#include "play.h"
#include "ssim.h"

template <typename T>
void add_adam_table(Layout& layout, const char* name) {
    using S = AdamTable<T>;
    layout.structure<S>(name) AT(scalars) AT(rates) AT(parameter) AT(exp_avg) AT(exp_avg_sq);
}

inline void add_blend_layout(Layout& layout) {
    {
        using S = BlendArgs<float>;
        layout.structure<S>("BlendArgs") AT(frames) AT(gaussians) AT(pairs) AT(expressions) AT(triangles) AT(bone_count)
            AT(vertices) AT(sh_degree) AT(threads) AT(pieces) AT(neutral) AT(values) AT(offsets) AT(expression) AT(mask)
            AT(triangle) AT(anchor) AT(barycentric) AT(weights) AT(beta) AT(triangle_maps) AT(bones) AT(camera_centers)
            AT(faces) AT(pre_offsets) AT(post_offsets) AT(means) AT(quats) AT(scales) AT(opacities) AT(colors)
            AT(raw_quats) AT(directions) AT(color_jacobian) AT(rest) AT(v_means) AT(v_quats) AT(v_scales)
            AT(v_opacities) AT(v_colors) AT(v_neutral) AT(v_geometry) AT(v_rgb) AT(v_skin) AT(v_posed) AT(v_view)
            AT(v_pairs) AT(half_values) AT(half_scales) AT(by_triangle) AT(piece_begin);
    }
    using S = SharedGradients<float>;
    layout.structure<S>("SharedGradients") AT(beta) AT(triangle_maps) AT(bones) AT(camera_centers) AT(pre_offsets)
        AT(post_offsets);
}

inline void add_drive_layout(Layout& layout) {
    using S = DriveArgs<float>;
    layout.structure<S>("DriveArgs") AT(frames) AT(head_expressions) AT(expressions) AT(features) AT(triangles)
        AT(vertices) AT(threads) AT(expression) AT(neck) AT(jaw) AT(eyes) AT(eyelids) AT(R) AT(t) AT(base) AT(linear)
        AT(anchor_weights) AT(anchor_lids) AT(anchor_mean) AT(lower_weights) AT(parents) AT(code_range) AT(map_offsets)
        AT(map_expression) AT(map_values) AT(pose_dirs) AT(eyelid_dirs) AT(beta) AT(bones) AT(camera_centers)
        AT(triangle_maps) AT(pre_offsets) AT(post_offsets);
}

inline Layout mirrored_layout() {
    Layout layout;
    add_blend_layout(layout);
    add_drive_layout(layout);
    add_adam_table<float>(layout, "AdamTable<float>");
    add_adam_table<double>(layout, "AdamTable<double>");
    {
        using S = FactorArgs<float>;
        layout.structure<S>("FactorArgs") AT(frames) AT(gaussians) AT(expressions) AT(sh_degree) AT(offsets)
            AT(expression) AT(mask) AT(beta) AT(v_geometry) AT(v_rgb) AT(directions);
    }
    {
        using S = ImageLossArgs<float>;
        layout.structure<S>("ImageLossArgs") AT(batch) AT(height) AT(width) AT(composite) AT(threads) AT(l1_weight)
            AT(dssim_weight) AT(alpha_weight) AT(c1) AT(c2) AT(window) AT(image) AT(alpha) AT(target) AT(background)
            AT(scratch) AT(terms) AT(total) AT(workspace) AT(v_total) AT(v_image) AT(v_alpha);
    }
    using namespace columns;
    layout CONSTANT(MEANS) CONSTANT(QUATS) CONSTANT(LOG_SCALES) CONSTANT(OPACITY) CONSTANT(SH) CONSTANT(ROW)
        CONSTANT(GEOMETRY) CONSTANT(HALF_ROW) CONSTANT(TRIANGLE_MAP) CONSTANT(SH_MAX_DEGREE) CONSTANT(JOINTS)
        CONSTANT(BONES) CONSTANT(FEATURES) CONSTANT(LINEAR_ROWS) CONSTANT(CODE_SLACK) CONSTANT(SSIM_TAPS)
        CONSTANT(SSIM_CUDA_TILE);
    return layout;
}
