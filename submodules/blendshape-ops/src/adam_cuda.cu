// Adam on a GPU. The differences' update is bound by memory: it reads and writes three tables once, and the gradient is
// formed in registers from the factors.
#include "adam.h"
#include "c_abi.h"
#include "launch.h"
#include "row_quads.h"
#include "with_degree.h"

namespace {

constexpr int WARPS = 4;
constexpr int BLOCK = WARPS * WARP;
constexpr int MOST_FRAMES = 48;  // whose rows a block holds in the 48 KiB of shared memory that every GPU gives unasked
constexpr int PAIRS = 8;         // of half a warp whose gradients wait in registers for further frames

__device__ __forceinline__ void update_quad(const AdamTable<float>& t, int64_t row, int quad, int columns,
                                            const float4& rate, float root, const float4& gradient) {
    const int64_t at = row * ROW_QUADS + quad;
    float4* parameters = reinterpret_cast<float4*>(t.parameter) + at;
    float4* exp_avgs = reinterpret_cast<float4*>(t.exp_avg) + at;
    float4* exp_avg_sqs = reinterpret_cast<float4*>(t.exp_avg_sq) + at;
    float4 p = __ldcs(parameters), m = __ldcs(exp_avgs), v = __ldcs(exp_avg_sqs);
    const int left = columns - 4 * quad;  // of the last quad, inactive columns keep what they hold
    adam_update(t.scalars, rate.x, root, gradient.x, p.x, m.x, v.x);
    if (left > 1) adam_update(t.scalars, rate.y, root, gradient.y, p.y, m.y, v.y);
    if (left > 2) adam_update(t.scalars, rate.z, root, gradient.z, p.z, m.z, v.z);
    if (left > 3) adam_update(t.scalars, rate.w, root, gradient.w, p.w, m.w, v.w);
    __stcs(parameters, p);
    __stcs(exp_avgs, m);
    __stcs(exp_avg_sqs, v);
}

// `rates` has 61 elements and no alignment to 16 bytes in the second of two schedules.
__device__ __forceinline__ float4 load_rates(const float* rates, int quad) {
    return {rates[4 * quad], rates[4 * quad + 1], rates[4 * quad + 2], rates[4 * quad + 3]};
}

template <int DEGREE>
__global__ void __launch_bounds__(BLOCK) table_kernel(const AdamTable<float> t, int64_t rows, const float* gradient) {
    constexpr int QUADS = active_quads(DEGREE);
    const int64_t i = int64_t(blockIdx.x) * BLOCK + threadIdx.x, row = i / QUADS;
    if (row >= rows) return;
    const int quad = int(i % QUADS);
    update_quad(t, row, quad, active_columns(DEGREE), load_rates(t.rates, quad), t.rates[ROW],
                load_quad(gradient, row, quad));
}

// Gradient rows of Gaussian n in frames first to last, made by the lanes of a warp.
template <int DEGREE>
__device__ __forceinline__ void expand_frames(const FactorArgs<float>& f, int64_t n, int first, int last, float4* rows) {
    for (int b = first + int(threadIdx.x % WARP); b < last; b += WARP) {
        const auto factors = load_factors(f.v_geometry, f.v_rgb, f.directions, b * f.gaussians + n);
        expand_factors<DEGREE>(factors, sh_coefficients(int(f.sh_degree)),
                               reinterpret_cast<float*>(rows + (b - first) * ROW_QUADS));
    }
}

// A warp takes one Gaussian: its lanes expand the factors of the frames into rows, then stream its pairs.
template <int DEGREE>
__global__ void __launch_bounds__(BLOCK) differences_kernel(const AdamTable<float> t, const FactorArgs<float> f) {
    DYNAMIC_SHARED(float4, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, quad = lane % HALF_WARP, half = lane / HALF_WARP;
    const int64_t n = int64_t(blockIdx.x) * WARPS + warp;
    if (n >= f.gaussians) return;
    const int64_t begin = f.offsets[n], end = f.offsets[n + 1];
    if (begin == end) return;
    const int frames = int(f.frames);
    float4* rows = shared + warp * frames * ROW_QUADS;
    expand_frames<DEGREE>(f, n, 0, frames, rows);
    __syncwarp();
    if (quad >= active_quads(DEGREE)) return;
    const float4 rate = load_rates(t.rates, quad);
    const float root = t.rates[ROW];
#pragma unroll 2
    for (int64_t p = begin + half; p < end; p += 2) {
        const float mask = f.mask[p];
        const float* beta = f.beta + f.expression[p];
        float4 gradient{};
        for (int b = 0; b < frames; ++b) add_scaled(gradient, mask * beta[b * f.expressions], rows[b * ROW_QUADS + quad]);
        update_quad(t, p, quad, active_columns(DEGREE), rate, root, gradient);
    }
}

// The same for more frames than shared memory holds: a warp takes 2 PAIRS pairs at a time and expands the frames anew
// for them, MOST_FRAMES at a time.
template <int DEGREE>
__global__ void __launch_bounds__(BLOCK) many_frames_kernel(const AdamTable<float> t, const FactorArgs<float> f) {
    DYNAMIC_SHARED(float4, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, quad = lane % HALF_WARP, half = lane / HALF_WARP;
    const int64_t n = int64_t(blockIdx.x) * WARPS + warp;
    if (n >= f.gaussians) return;
    const bool active = quad < active_quads(DEGREE);
    const int64_t end = f.offsets[n + 1];
    const int frames = int(f.frames);
    float4* rows = shared + warp * MOST_FRAMES * ROW_QUADS;
    for (int64_t begin = f.offsets[n]; begin < end; begin += 2 * PAIRS) {
        float4 gradients[PAIRS] = {};
        for (int first = 0; first < frames; first += MOST_FRAMES) {
            const int last = frames - first < MOST_FRAMES ? frames : first + MOST_FRAMES;
            __syncwarp();
            expand_frames<DEGREE>(f, n, first, last, rows);
            __syncwarp();
#pragma unroll
            for (int i = 0; i < PAIRS; ++i) {
                const int64_t p = begin + 2 * i + half;
                if (!active || p >= end) continue;
                const float mask = f.mask[p];
                const float* beta = f.beta + f.expression[p];
                for (int b = first; b < last; ++b) {
                    const float4 row = rows[(b - first) * ROW_QUADS + quad];
                    add_scaled(gradients[i], mask * beta[b * f.expressions], row);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int64_t p = begin + 2 * i + half;
            if (!active || p >= end) continue;
            update_quad(t, p, quad, active_columns(DEGREE), load_rates(t.rates, quad), t.rates[ROW], gradients[i]);
        }
    }
}

constexpr int ADVANCE_THREADS = 128;
static_assert(2 * (ROW + 1) <= ADVANCE_THREADS, "a thread for each number of both schedules");

// One block. Counts the step and makes the schedules [2, 61] of rates [2, 60].
__global__ void advance_kernel(int64_t* steps, const double* rates, float* schedules, double beta1, double beta2) {
    const double step = double(*steps + 1);
    const int i = int(threadIdx.x), table = i / (ROW + 1), column = i % (ROW + 1);
    if (table < 2) {
        const double value = column < ROW ? rates[table * ROW + column] / (1 - pow(beta1, step)) : sqrt(1 - pow(beta2, step));
        schedules[i] = float(value);
    }
    __syncthreads();
    if (i == 0) *steps += 1;
}

void step_table(int64_t rows, int64_t sh_degree, const AdamTable<float>& t, const float* gradient, cudaStream_t stream) {
    if (rows == 0) return;
    with_degree(sh_degree, [&](auto degree) {
        constexpr int DEGREE = decltype(degree)::value;
        const unsigned blocks = blocks_for(rows * active_quads(DEGREE), BLOCK);
        launch("adam_table", table_kernel<DEGREE>, dim3(blocks), BLOCK, 0, stream, t, rows, gradient);
    });
}

void step_differences(int64_t sh_degree, const AdamTable<float>& t, const FactorArgs<float>& f, cudaStream_t stream) {
    if (f.gaussians == 0) return;
    with_degree(sh_degree, [&](auto degree) {
        constexpr int DEGREE = decltype(degree)::value;
        const bool all_fit = f.frames <= MOST_FRAMES;
        const size_t bytes = WARPS * (all_fit ? f.frames : MOST_FRAMES) * ROW_QUADS * sizeof(float4);
        const auto kernel = all_fit ? differences_kernel<DEGREE> : many_frames_kernel<DEGREE>;
        launch("adam_differences", kernel, dim3(blocks_for(f.gaussians, WARPS)), BLOCK, bytes, stream, t, f);
    });
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_adam_table_f32(int64_t rows, int64_t sh_degree, const AdamTable<float>* table,
                                                const float* gradient, int /*threads*/, cudaStream_t stream) {
    return c_abi::guarded([&] { step_table(rows, sh_degree, *table, gradient, stream); });
}
NATIVE_EXPORT int blendshape_ops_adam_differences_f32(int64_t sh_degree, const AdamTable<float>* table,
                                                      const FactorArgs<float>* factors, int /*threads*/,
                                                      cudaStream_t stream) {
    return c_abi::guarded([&] { step_differences(sh_degree, *table, *factors, stream); });
}
NATIVE_EXPORT int blendshape_ops_adam_advance_f32(int64_t* steps, const double* rates, float* schedules, double beta1,
                                                  double beta2, cudaStream_t stream) {
    return c_abi::guarded([&] {
        launch("adam_advance", advance_kernel, dim3(1), ADVANCE_THREADS, 0, stream, steps, rates, schedules, beta1, beta2);
    });
}
