// What _library.py and _passes.py mirror of this interface; exported by both libraries as dgr_layout().
#pragma once

#include "constants.h"
#include "layout.h"
#include "rasterize.h"

inline Layout mirrored_layout() {
    Layout layout;
    {
        using S = DgrScene;
        layout.structure<S>("DgrScene") AT(batch) AT(count) AT(width) AT(height) AT(background_kind) AT(threads) AT(means)
            AT(quats) AT(scales) AT(opacities) AT(colors) AT(R) AT(t) AT(K) AT(background);
    }
    {
        using S = DgrPicture;
        layout.structure<S>("DgrPicture") AT(image) AT(alpha) AT(radii);
    }
    {
        using S = DgrUpstream;
        layout.structure<S>("DgrUpstream") AT(v_image) AT(v_alpha) AT(image) AT(radii);
    }
    {
        using S = DgrGradients;
        layout.structure<S>("DgrGradients") AT(means) AT(quats) AT(scales) AT(opacities) AT(colors) AT(R) AT(t) AT(K)
            AT(background) AT(means2d) AT(grad_sum) AT(count) AT(max_radius);
    }
    {
        using S = DgrCudaWork;
        layout.structure<S>("DgrCudaWork") AT(splats) AT(tile_cursor) AT(tile_begin) AT(keys) AT(transmittance)
            AT(splat_gradients) AT(camera) AT(background) AT(needed) AT(capacity);
    }
    layout CONSTANT(CURSOR_STEP) CONSTANT(RECORD) CONSTANT(CAMERA_NUMBERS) CONSTANT(MAX_CAPACITY)
        CONSTANT(BACKGROUND_BLACK) CONSTANT(BACKGROUND_COLOR) CONSTANT(BACKGROUND_COLOR_PER_FRAME)
        CONSTANT(BACKGROUND_IMAGE);
    return layout;
}
