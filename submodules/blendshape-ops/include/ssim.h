// Structural similarity (Wang et al. 2004) of one pixel from its window's moments, and the per-pixel parts of the loss.
#pragma once

#include <cstdint>

#include "vec.h"

constexpr int SSIM_TAPS = 11;
constexpr int SSIM_RADIUS = SSIM_TAPS / 2;
constexpr int SSIM_CUDA_TILE = 32;  // pixels a side of a block of the CUDA kernels, whose number sizes the workspace

// Mirrored in blendshape_ops/native_image_loss.py and in mirrors.h.
template <typename T>
struct ImageLossArgs {
    int64_t batch, height, width, composite, threads;
    double l1_weight, dssim_weight, alpha_weight, c1, c2;
    const T* window;  // [11], normalised
    const T *image, *alpha;
    const uint8_t* target;  // [B,H,W,4]
    const T* background;    // [3] or null (black)
    T* scratch;             // [3,B,3,H,W], kept for the backward pass, or null
    T *terms, *total;       // [3]: l1, dssim, alpha; [1]
    void* workspace;        // CUDA: an int32 that is 0, padded to 8 bytes, then 3 doubles for each block
    const T* v_total;       // [1], gradient of the total
    T *v_image, *v_alpha;   // or null
};

// Window means of the image I, the target G, I^2, G^2 and I G.
template <typename T>
struct SsimMoments {
    T i, g, ii, gg, ig;
};

// SSIM and its derivatives with respect to the window means i, ii, ig.
template <typename T>
struct SsimValue {
    T value, d_i, d_ii, d_ig;
};

template <typename T>
HD SsimValue<T> ssim(const SsimMoments<T>& m, T c1, T c2) {
    const T luminance = 2 * m.i * m.g + c1, structure = 2 * (m.ig - m.i * m.g) + c2;
    const T squares = m.i * m.i + m.g * m.g + c1;
    const T variances = m.ii - m.i * m.i + m.gg - m.g * m.g + c2;
    const T inverse = 1 / (squares * variances);
    const T value = luminance * structure * inverse;
    const T d_ig = 2 * luminance * inverse;
    const T d_ii = -value / variances;
    const T d_i = 2 * m.g * structure * inverse - 2 * m.i * value / squares - 2 * m.i * d_ii - m.g * d_ig;
    return {value, d_i, d_ii, d_ig};
}

// Channel of the wanted colour: rgb of the 8-bit pixel, over the background where composited.
template <typename T>
HD T wanted_color(const uint8_t* pixel, int channel, bool composite, T background) {
    const T color = T(pixel[channel]) / 255;
    if (!composite) return color;
    const T alpha = T(pixel[3]) / 255;
    return color * alpha + background * (1 - alpha);
}

template <typename T>
HD T sign(T a) {
    return T(a > 0) - T(a < 0);
}

// The terms and their weighted total from the sums over all pixels of |I - G|, SSIM and (alpha - a)^2.
template <typename T>
HD void store_terms(const ImageLossArgs<T>& a, double l1, double similarity, double alpha) {
    const double pixels = double(a.batch * a.height * a.width);
    const double terms[3] = {l1 / (3 * pixels), 1 - similarity / (3 * pixels), alpha / pixels};
    for (int i = 0; i < 3; ++i) a.terms[i] = T(terms[i]);
    *a.total = T(a.l1_weight * terms[0] + a.dssim_weight * terms[1] + a.alpha_weight * terms[2]);
}
