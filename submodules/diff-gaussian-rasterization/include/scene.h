// Reading a DgrScene.
#pragma once

#include "projection.h"
#include "rasterize.h"

template <typename T>
HD Gaussian<T> load_gaussian(const DgrScene& scene, size_t i) {
    return {load3(static_cast<const T*>(scene.means) + 3 * i), load_quat(static_cast<const T*>(scene.quats) + 4 * i),
            load3(static_cast<const T*>(scene.scales) + 3 * i), static_cast<const T*>(scene.opacities)[i],
            load3(static_cast<const T*>(scene.colors) + 3 * i)};
}

template <typename T>
HD Camera<T> load_frame_camera(const DgrScene& scene, size_t frame) {
    return load_camera(static_cast<const T*>(scene.R) + 9 * frame, static_cast<const T*>(scene.t) + 3 * frame,
                       static_cast<const T*>(scene.K) + 9 * frame, scene.width, scene.height);
}

// Background colour of one channel of one pixel.
template <typename T>
HD T background_at(const DgrScene& scene, int frame, int channel, size_t pixel) {
    const T* values = static_cast<const T*>(scene.background);
    switch (scene.background_kind) {
        case BACKGROUND_COLOR:
            return values[channel];
        case BACKGROUND_COLOR_PER_FRAME:
            return values[3 * frame + channel];
        case BACKGROUND_IMAGE:
            return values[(3 * size_t(frame) + channel) * scene.width * scene.height + pixel];
        default:
            return T(0);
    }
}
