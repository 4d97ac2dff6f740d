// A projected Gaussian and what it does to a pixel. Exponents are kept to base 2, where exp2 is cheapest:
//   alpha(dx, dy) = opacity exp(-1/2 d^T Q d) = 2^(peak - (shear_x dx + shear_y dy)^2 - fall dy^2),  d = pixel - mean.
// The two squares are the Cholesky factors of Q (2x2): unlike the expanded quadratic form they cannot cancel to a
// negative value for long thin splats, and they cost two multiply-adds a pixel along a row.
#pragma once

#include "constants.h"
#include "lanes.h"

template <typename T>
struct Splat {
    T x, y;  // mean in pixels; pixel (i, j) lies at x = i, y = j
    T shear_x, shear_y, fall;
    T peak;                     // log2(opacity)
    T half_width, half_height;  // |dx|, |dy| beyond which alpha < ALPHA_MIN
    T color[3];
};

// The functions below take one pixel (V = float, double) or a vector of pixels (V = Lanes<T>).

// Opacity of a splat at a pixel before and after both cuts; `raw` is meaningless where alpha is 0.
template <typename V>
struct PixelAlpha {
    V raw, alpha;
};

template <typename V>
HD PixelAlpha<V> pixel_alpha(V exponent) {
    const V raw = exp2_fast(exponent), most = broadcast<V>(constants::ALPHA_MAX);
    const V capped = select(raw < most, raw, most);
    return {raw, select(exponent >= broadcast<V>(constants::LOG2_ALPHA_MIN), capped, V{})};
}

// Blends one splat in front-to-back order: returns its weight T alpha and updates the transmittance, whose sign is
// turned once the pixel has stopped (so that one number holds both).
template <typename V>
HD V blend(V alpha, V& transmittance) {
    const V next = transmittance - transmittance * alpha;
    const auto stopped = next < broadcast<V>(constants::TRANSMITTANCE_MIN);
    const V weight = select(stopped, V{}, alpha * transmittance);
    const V turned = select(transmittance < V{}, transmittance, -transmittance);
    transmittance = select(stopped, turned, next);
    return weight;
}

// Gradient of a pixel with respect to the natural logarithm of the splat's alpha, which is that of its opacity.
template <typename V>
struct PixelGradient {
    V full, without_alpha;  // without_alpha: leaving out what comes through the alpha output
};

// One splat of a pixel, front to back. v_dot_color: upstream gradient . colour; behind: upstream . (everything behind
// this splat), updated here, of which through_alpha = -v_alpha_output * final transmittance comes from the alpha
// output. With S = sum_j>i T_j alpha_j c_j + T_final background:  dC/dalpha_i = T_i c_i - S / (1 - alpha_i).
template <typename V>
HD PixelGradient<V> blend_backward(PixelAlpha<V> a, V weight, V v_dot_color, V through_alpha, V& behind) {
    const V through_color = weight * v_dot_color;
    behind -= through_color;
    const V odds = quotient(a.alpha, broadcast<V>(1) - a.alpha);
    const V full = through_color - behind * odds;
    // Past the cap alpha is constant; where the weight is 0 the splat is cut, or the pixel has stopped.
    const V counted = select(a.raw < broadcast<V>(constants::ALPHA_MAX), weight, V{});
    return {select(counted > V{}, full, V{}), select(counted > V{}, full + through_alpha * odds, V{})};
}
