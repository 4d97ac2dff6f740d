// One Adam update of one number, and what the kernels that apply it are given.
#pragma once

#include <cmath>
#include <cstdint>

#include "vec.h"

// 1 - beta comes from the host, which forms it in double: 1 - 0.999f is off by 5e-5 of its value.
template <typename T>
struct AdamScalars {
    T one_minus_beta1, beta2, one_minus_beta2, eps;
};

// This and FactorArgs are mirrored in blendshape_ops/native_adam.py and in mirrors.h.
template <typename T>
struct AdamTable {
    AdamScalars<T> scalars;
    const T* rates;  // [ROW + 1]: the columns' learning rates over 1 - beta1^t, and the root of 1 - beta2^t
    T *parameter, *exp_avg, *exp_avg_sq;  // [rows, ROW]
};

// The gradient of the differences in factored form; see Factors in blendshape_ops/tables.py.
template <typename T>
struct FactorArgs {
    int64_t frames, gaussians, expressions, sh_degree;
    const int32_t *offsets, *expression;
    const T *mask, *beta, *v_geometry, *v_rgb, *directions;
};

// Kingma & Ba 2015 in the arrangement of torch.optim.Adam.
template <typename T>
HD void adam_update(const AdamScalars<T>& s, T rate, T root_correction, T gradient, T& parameter, T& exp_avg,
                    T& exp_avg_sq) {
    exp_avg += s.one_minus_beta1 * (gradient - exp_avg);
    exp_avg_sq = s.beta2 * exp_avg_sq + s.one_minus_beta2 * gradient * gradient;
    parameter -= rate * exp_avg / (std::sqrt(exp_avg_sq) / root_correction + s.eps);
}
