// Blend, pose and colour on the CPU: every Gaussian is one thread's work, so sums over pairs and frames have one order.
#include <algorithm>

#include "c_abi.h"
#include "half.h"
#include "mirrors.h"
#include "parallel.h"
#include "row_lanes.h"
#include "with_degree.h"

namespace {

constexpr int64_t GRAIN = 256;  // Gaussians per thread at least: about 100 us of work against 30 us to start a thread

template <typename T, int DEGREE>
using Lanes = RowLanes<T, active_columns(DEGREE)>;

template <typename T, int DEGREE>
void blend_forward(const BlendArgs<T>& a) {
    parallel_chunks(a.gaussians, GRAIN, thread_count(int(a.threads)), [&](int64_t begin, int64_t end, int) {
        Lanes<T, DEGREE> sum;
        T raw[ROW] = {};
        for (int64_t n = begin; n < end; ++n) {
            for (int64_t b = 0; b < a.frames; ++b) {
                const T* beta = a.beta + b * a.expressions;
                sum.set(a.neutral + n * ROW);
                for (int64_t p = a.offsets[n]; p < a.offsets[n + 1]; ++p) {
                    sum.add_scaled(a.mask[p] * beta[a.expression[p]], a.values + p * ROW);
                }
                sum.store(raw);
                pose_gaussian<DEGREE>(a, b, n, raw);
            }
        }
    });
}

// The same from half-precision differences.
template <typename T, int DEGREE>
void blend_forward_half(const BlendArgs<T>& a) {
    parallel_chunks(a.gaussians, GRAIN, thread_count(int(a.threads)), [&](int64_t begin, int64_t end, int) {
        T raw[HALF_ROW];
        for (int64_t n = begin; n < end; ++n) {
            for (int64_t b = 0; b < a.frames; ++b) {
                const T* beta = a.beta + b * a.expressions;
                std::fill(raw, raw + HALF_ROW, T(0));
                for (int64_t p = a.offsets[n]; p < a.offsets[n + 1]; ++p) {
                    const T code = beta[a.expression[p]];
                    const uint16_t* row = a.half_values + p * HALF_ROW;
                    for (int c = 0; c < HALF_ROW; ++c) raw[c] += code * T(half_to_float(row[c]));
                }
                for (int c = 0; c < ROW; ++c) raw[c] = a.neutral[n * ROW + c] + a.half_scales[c] * raw[c];
                pose_gaussian<DEGREE>(a, b, n, raw);
            }
        }
    });
}

template <typename T>
void pair_gradient(const BlendArgs<T>& a, int64_t b, int64_t n, const T* row) {
    for (int64_t p = a.offsets[n]; p < a.offsets[n + 1]; ++p) {
        a.v_pairs[b * a.pairs + p] = a.mask[p] * row_dot(a.values + p * ROW, row);
    }
}

template <typename T, int DEGREE>
void blend_backward(const BlendArgs<T>& a) {
    parallel_chunks(a.gaussians, GRAIN, thread_count(int(a.threads)), [&](int64_t begin, int64_t end, int) {
        Lanes<T, DEGREE> sum;
        T row[ROW];
        for (int64_t n = begin; n < end; ++n) {
            sum.clear();
            for (int64_t b = 0; b < a.frames; ++b) {
                expand_factors<DEGREE>(pose_gaussian_backward(a, b, n), SH_MAX_COEFFICIENTS, row);
                sum.add_scaled(T(1), row);
                if (a.v_pairs) pair_gradient(a, b, n, row);
            }
            T* v_neutral = a.v_neutral + n * ROW;
            sum.store(v_neutral);
            for (int c = Lanes<T, DEGREE>::COUNT * Lanes<T, DEGREE>::LANES; c < ROW; ++c) v_neutral[c] = 0;
        }
    });
}

// One thread per frame adds in the Gaussians' order.
template <typename T>
void gather_shared(const BlendArgs<T>& a, const SharedGradients<T>& g) {
    const auto add = [](T* out, const T* values, int count) {
        for (int i = 0; i < count; ++i) out[i] += values[i];
    };
    parallel_for(a.frames, 1, thread_count(int(a.threads)), [&](int64_t b) {
        for (int64_t n = 0; n < a.gaussians; ++n) {
            const int64_t item = b * a.gaussians + n;
            if (a.triangle[n] >= 0) {
                SurfaceGradient<T> own{};
                add_surface_gradient(a, g, b, n, own);
                scatter_surface_gradient(a, g, b, a.triangle[n], own, add);
            }
            for (int64_t j = 0; g.bones && j < a.bone_count; ++j) {
                T* bone = g.bones + (b * a.bone_count + j) * 12;
                const T weight = a.weights[n * a.bone_count + j];
                for (int i = 0; i < 12; ++i) bone[i] += weight * a.v_skin[12 * item + i];
            }
            for (int i = 0; g.camera_centers && i < 3; ++i) g.camera_centers[3 * b + i] -= a.v_view[3 * item + i];
        }
        for (int64_t p = 0; g.beta && p < a.pairs; ++p) {
            g.beta[b * a.expressions + a.expression[p]] += a.v_pairs[b * a.pairs + p];
        }
    });
}

template <typename T>
int forward(const BlendArgs<T>* a) {
    return c_abi::guarded([&] {
        with_degree(a->sh_degree, [&](auto degree) {
            constexpr int DEGREE = decltype(degree)::value;
            a->half_values ? blend_forward_half<T, DEGREE>(*a) : blend_forward<T, DEGREE>(*a);
        });
    });
}

template <typename T>
int backward(const BlendArgs<T>* a, const SharedGradients<T>* shared) {
    return c_abi::guarded([&] {
        with_degree(a->sh_degree, [&](auto degree) { blend_backward<T, decltype(degree)::value>(*a); });
        gather_shared(*a, *shared);
    });
}

}  // namespace

NATIVE_EXPORT const char* blendshape_ops_last_error() { return c_abi::last_error().c_str(); }
// What Python must agree with; see layout.h.
NATIVE_EXPORT const char* blendshape_ops_layout() {
    static const Layout layout = mirrored_layout();
    return layout.text().c_str();
}
NATIVE_EXPORT int blendshape_ops_blend_forward_f32(const BlendArgs<float>* a) { return forward(a); }
NATIVE_EXPORT int blendshape_ops_blend_forward_f64(const BlendArgs<double>* a) { return forward(a); }
NATIVE_EXPORT int blendshape_ops_blend_backward_f32(const BlendArgs<float>* a, const SharedGradients<float>* shared) {
    return backward(a, shared);
}
NATIVE_EXPORT int blendshape_ops_blend_backward_f64(const BlendArgs<double>* a, const SharedGradients<double>* shared) {
    return backward(a, shared);
}
