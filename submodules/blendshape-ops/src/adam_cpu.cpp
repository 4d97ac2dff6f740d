// Adam on tables of 60 columns, and on the differences straight from the factors of their gradient.
#include <vector>

#include "adam.h"
#include "c_abi.h"
#include "parallel.h"
#include "row_lanes.h"
#include "with_degree.h"

namespace {

constexpr int64_t GRAIN = 128;

// A moment that no gradient feeds decays by 0.9 a step and, left alone, ends in denormal numbers, which many CPUs handle
// a hundred times slower. Flushing them to zero cannot be seen: eps = 1e-15 outweighs the root of any denormal.
class FlushDenormals {
public:
#if defined(__SSE2__)
    FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

private:
    unsigned saved_;
#endif
};

template <typename T, int DEGREE>
void update_row(AdamScalars<T> s, const T* __restrict rates, const T* __restrict gradient, T* __restrict parameter,
                T* __restrict exp_avg, T* __restrict exp_avg_sq) {
    const T root_correction = rates[ROW];
    for (int c = 0; c < active_columns(DEGREE); ++c) {
        adam_update(s, rates[c], root_correction, gradient[c], parameter[c], exp_avg[c], exp_avg_sq[c]);
    }
}

template <typename T, int DEGREE>
void update_table(int64_t rows, const AdamTable<T>& t, const T* gradient, int threads) {
    parallel_chunks(rows, GRAIN, thread_count(threads), [&](int64_t begin, int64_t end, int) {
        const FlushDenormals flush;
        for (int64_t at = begin * ROW; at < end * ROW; at += ROW) {
            update_row<T, DEGREE>(t.scalars, t.rates, gradient + at, t.parameter + at, t.exp_avg + at,
                                   t.exp_avg_sq + at);
        }
    });
}

template <typename T, int DEGREE>
void update_differences(const AdamTable<T>& t, const FactorArgs<T>& f, int threads) {
    parallel_chunks(f.gaussians, GRAIN, thread_count(threads), [&](int64_t begin, int64_t end, int) {
        const FlushDenormals flush;
        std::vector<T> rows(f.frames * ROW);
        RowLanes<T, active_columns(DEGREE)> sum;
        T gradient[ROW] = {};
        for (int64_t n = begin; n < end; ++n) {
            for (int64_t b = 0; b < f.frames; ++b) {
                const auto factors = load_factors(f.v_geometry, f.v_rgb, f.directions, b * f.gaussians + n);
                expand_factors<DEGREE>(factors, sh_coefficients(int(f.sh_degree)), rows.data() + b * ROW);
            }
            for (int64_t p = f.offsets[n]; p < f.offsets[n + 1]; ++p) {
                sum.clear();
                for (int64_t b = 0; b < f.frames; ++b) {
                    sum.add_scaled(f.mask[p] * f.beta[b * f.expressions + f.expression[p]], rows.data() + b * ROW);
                }
                sum.store(gradient);
                const int64_t at = p * ROW;
                update_row<T, DEGREE>(t.scalars, t.rates, gradient, t.parameter + at, t.exp_avg + at,
                                       t.exp_avg_sq + at);
            }
        }
    });
}

template <typename T>
int table_step(int64_t rows, int64_t sh_degree, const AdamTable<T>* t, const T* gradient, int threads) {
    return c_abi::guarded([&] {
        with_degree(sh_degree, [&](auto degree) {
            update_table<T, decltype(degree)::value>(rows, *t, gradient, threads);
        });
    });
}

template <typename T>
int differences_step(int64_t sh_degree, const AdamTable<T>* t, const FactorArgs<T>* f, int threads) {
    return c_abi::guarded([&] {
        with_degree(sh_degree, [&](auto degree) {
            update_differences<T, decltype(degree)::value>(*t, *f, threads);
        });
    });
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_adam_table_f32(int64_t rows, int64_t sh_degree, const AdamTable<float>* table,
                                                const float* gradient, int threads) {
    return table_step(rows, sh_degree, table, gradient, threads);
}
NATIVE_EXPORT int blendshape_ops_adam_table_f64(int64_t rows, int64_t sh_degree, const AdamTable<double>* table,
                                                const double* gradient, int threads) {
    return table_step(rows, sh_degree, table, gradient, threads);
}
NATIVE_EXPORT int blendshape_ops_adam_differences_f32(int64_t sh_degree, const AdamTable<float>* table,
                                                      const FactorArgs<float>* factors, int threads) {
    return differences_step(sh_degree, table, factors, threads);
}
NATIVE_EXPORT int blendshape_ops_adam_differences_f64(int64_t sh_degree, const AdamTable<double>* table,
                                                      const FactorArgs<double>* factors, int threads) {
    return differences_step(sh_degree, table, factors, threads);
}
