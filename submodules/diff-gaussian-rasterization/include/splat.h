// A projected Gaussian and what it does to a pixel. Exponents are kept to base 2, where exp2 is cheapest:
//   alpha(dx, dy) = opacity exp(-1/2 d^T Q d) = 2^(peak - (shear_x dx + shear_y dy)^2 - fall dy^2),  d = pixel - mean.
// The two squares are the Cholesky factors of Q (2x2): unlike the expanded quadratic form they cannot cancel to a
// negative value for long thin splats, and they cost two multiply-adds a pixel along a row.
#pragma once

#include <cstdint>
#include <cstring>

#include "constants.h"
#include "vec.h"

template <typename T>
struct Splat {
    T x, y;  // mean in pixels; pixel (i, j) lies at x = i, y = j
    T shear_x, shear_y, fall;
    T peak;  // log2(opacity)
    T half_width, half_height;  // |dx|, |dy| beyond which alpha < ALPHA_MIN
    T color[3];
};

// 2^e; on the host a polynomial that the compiler can vectorise, relative error below 2e-7 for float on [-16, 126].
HD double exp2_fast(double e) { return std::exp2(e); }
HD float exp2_fast(float e) {
#ifdef __CUDA_ARCH__
    return exp2f(e);
#else
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
    e = e > -16.0f ? (e < 126.0f ? e : 126.0f) : -16.0f;
    const float shifted = e + shift;
    const float f = e - (shifted - shift);
    float scaled = 1.3264727e-3f;  // minimax fit on [-1/2, 1/2] with p(0) = 1, relative error 9.2e-8
    scaled = scaled * f + 9.6715126e-3f;
    scaled = scaled * f + 5.5507337e-2f;
    scaled = scaled * f + 2.4022242e-1f;
    scaled = scaled * f + 6.9314698e-1f;
    scaled = scaled * f + 1.0f;
    uint32_t exponent, bits;
    std::memcpy(&exponent, &shifted, 4);
    std::memcpy(&bits, &scaled, 4);
    bits += exponent << 23;
    std::memcpy(&scaled, &bits, 4);
    return scaled;
#endif
}

// Opacity of a splat at a pixel before and after both cuts; `raw` is meaningless where alpha is 0.
template <typename T>
struct PixelAlpha {
    T raw, alpha;
};

template <typename T>
HD PixelAlpha<T> pixel_alpha(T exponent) {
    const T raw = exp2_fast(exponent);
    const T capped = raw < T(constants::ALPHA_MAX) ? raw : T(constants::ALPHA_MAX);
    return {raw, exponent >= T(constants::LOG2_ALPHA_MIN) ? capped : T(0)};
}

// Blends one splat in front-to-back order: returns its weight T alpha and updates the transmittance, whose sign is
// turned once the pixel has stopped (so that one number holds both).
template <typename T>
HD T blend(T alpha, T& transmittance) {
    const T next = transmittance - transmittance * alpha;
    const bool stopped = next < T(constants::TRANSMITTANCE_MIN);
    const T weight = stopped ? T(0) : alpha * transmittance;
    const T turned = transmittance < T(0) ? transmittance : -transmittance;
    transmittance = stopped ? turned : next;
    return weight;
}

// Gradient of a pixel with respect to the natural logarithm of the splat's alpha, which is that of its opacity.
template <typename T>
struct PixelGradient {
    T full, without_alpha;  // without_alpha: leaving out what comes through the alpha output
};

// One splat of a pixel, front to back. v_dot_color: upstream gradient . colour; behind: upstream . (everything behind
// this splat), updated here, of which through_alpha = -v_alpha_output * final transmittance comes from the alpha output.
// With S = sum_j>i T_j alpha_j c_j + T_final background:  dC/dalpha_i = T_i c_i - S / (1 - alpha_i).
template <typename T>
HD PixelGradient<T> blend_backward(PixelAlpha<T> a, T weight, T v_dot_color, T through_alpha, T& behind) {
    behind -= weight * v_dot_color;
    const T odds = a.alpha / (T(1) - a.alpha);
    const T full = weight * v_dot_color - behind * odds;
    // Past the cap alpha is constant; where the weight is 0 the splat is cut, or the pixel has stopped.
    const bool counts = weight > T(0) && a.raw < T(constants::ALPHA_MAX);
    return {counts ? full : T(0), counts ? full + through_alpha * odds : T(0)};
}
