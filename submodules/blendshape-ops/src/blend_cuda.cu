// Blend, pose and colour on a GPU. A warp takes a few Gaussians: first its lanes stream the pairs' rows across the
// columns (every row is read once for a batch of up to 8 frames), then each lane poses one (Gaussian, frame).
#include <algorithm>

#include "blend_shared_cuda.cuh"
#include "c_abi.h"
#include "half.h"
#include "launch.h"
#include "mirrors.h"
#include "row_quads.h"
#include "with_degree.h"

namespace {

constexpr int WARPS = 4;  // of a block; its 32 rows of 240 bytes a warp keep 30 KiB of shared memory busy
constexpr int BLOCK = WARPS * WARP;
// Rows of the backward pass are written by one lane each and read across: an odd stride keeps the banks apart.
constexpr int ODD_ROW = ROW + 1;

// Gaussians of one warp, at most 32 / FRAMES; fewer where there are too few to fill the GPU.
struct Share {
    int64_t first;
    int count, capacity;
};

__device__ Share share_of_warp(int64_t gaussians, int capacity) {
    const int64_t first = (int64_t(blockIdx.x) * WARPS + threadIdx.x / WARP) * capacity;
    const int64_t left = gaussians - first;
    return {first, int(left < 0 ? 0 : left < capacity ? left : capacity), capacity};
}

// Adds the rows of Gaussian n's pairs, weighted by mask and codes, to its neutral row, for FRAMES frames at once.
template <int DEGREE, int FRAMES>
__device__ void blend_gaussian(const BlendArgs<float>& a, int64_t n, const float* beta, int frames, float4* rows,
                               int row_step) {
    const int lane = threadIdx.x % WARP, quad = lane % HALF_WARP, half = lane / HALF_WARP;
    const bool active = quad < active_quads(DEGREE);
    float4 sum[FRAMES] = {};
    const int64_t end = a.offsets[n + 1];
#pragma unroll 4
    for (int64_t p = a.offsets[n] + half; p < end; p += 2) {
        const float4 value = active ? stream_quad(a.values, p, quad) : float4{};
        const float mask = a.mask[p];
        const float* code = beta + a.expression[p];
#pragma unroll
        for (int f = 0; f < FRAMES; ++f) add_scaled(sum[f], mask * code[f * a.expressions], value);
    }
    const float4 neutral = active ? load_quad(a.neutral, n, quad) : float4{};
#pragma unroll
    for (int f = 0; f < FRAMES; ++f) {
        float4 other;
        other.x = __shfl_xor_sync(ALL_LANES, sum[f].x, HALF_WARP);
        other.y = __shfl_xor_sync(ALL_LANES, sum[f].y, HALF_WARP);
        other.z = __shfl_xor_sync(ALL_LANES, sum[f].z, HALF_WARP);
        other.w = __shfl_xor_sync(ALL_LANES, sum[f].w, HALF_WARP);
        add_scaled(sum[f], 1.0f, other);
        add_scaled(sum[f], 1.0f, neutral);
        if (active && half == f % 2 && f < frames) rows[f * row_step * ROW_QUADS + quad] = sum[f];
    }
}

// The same from half-precision differences, 8 lanes a Gaussian: each holds 8 columns, so a row is one cache line read at
// once, and a warp works on 4 Gaussians (numbers `group`, `group` + 4, ...) whose loads are in flight together.
template <int DEGREE, int FRAMES>
__device__ void blend_half(const BlendArgs<float>& a, int64_t n, const float* beta, int frames, float4* rows,
                           int row_step) {
    const int part = threadIdx.x % HALF_PARTS;
    if (part * 2 >= active_quads(DEGREE)) return;
    float sum[FRAMES][HALF_LANES] = {};
    const int64_t end = a.offsets[n + 1];
#pragma unroll 4
    for (int64_t p = a.offsets[n]; p < end; ++p) {
        const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(a.half_values) + p * HALF_PARTS + part);
        const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
        const float* code = beta + a.expression[p];
#pragma unroll
        for (int i = 0; i < HALF_LANES; ++i) {
            const float value = half_to_float(uint16_t(words[i / 2] >> 16 * (i % 2)));
#pragma unroll
            for (int f = 0; f < FRAMES; ++f) sum[f][i] += code[f * a.expressions] * value;
        }
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
        const int quad = 2 * part + q;
        if (quad >= active_quads(DEGREE)) continue;
        const float4 neutral = load_quad(a.neutral, n, quad);
        const float4 scale = load_quad(a.half_scales, 0, quad);
#pragma unroll
        for (int f = 0; f < FRAMES; ++f) {
            const float* s = sum[f] + 4 * q;
            const float4 row = {neutral.x + scale.x * s[0], neutral.y + scale.y * s[1], neutral.z + scale.z * s[2],
                                neutral.w + scale.w * s[3]};
            if (f < frames) rows[f * row_step * ROW_QUADS + quad] = row;
        }
    }
}

template <int DEGREE, int FRAMES, bool HALF>
__global__ void __launch_bounds__(BLOCK) blend_forward_kernel(const BlendArgs<float> a, int capacity) {
    DYNAMIC_SHARED(float4, shared);
    float4* rows = shared + (threadIdx.x / WARP) * WARP * ROW_QUADS;
    float* beta = reinterpret_cast<float*>(shared + BLOCK * ROW_QUADS);
    const Share share = share_of_warp(a.gaussians, capacity);
    const int lane = threadIdx.x % WARP;
    for (int64_t first_frame = 0; first_frame < a.frames; first_frame += FRAMES) {
        const int frames = int(a.frames - first_frame < FRAMES ? a.frames - first_frame : FRAMES);
        __syncthreads();
        for (int64_t i = threadIdx.x; i < FRAMES * a.expressions; i += BLOCK) {
            beta[i] = i < frames * a.expressions ? a.beta[first_frame * a.expressions + i] : 0.0f;
        }
        __syncthreads();
        for (int g = HALF ? lane / HALF_PARTS : 0; g < share.count; g += HALF ? WARP / HALF_PARTS : 1) {
            if constexpr (HALF) {
                blend_half<DEGREE, FRAMES>(a, share.first + g, beta, frames, rows + g * ROW_QUADS, share.capacity);
            } else {
                blend_gaussian<DEGREE, FRAMES>(a, share.first + g, beta, frames, rows + g * ROW_QUADS, share.capacity);
            }
        }
        __syncwarp();
        const int g = lane % share.capacity, f = lane / share.capacity;
        if (g < share.count && f < frames) {
            const float* row = reinterpret_cast<const float*>(rows + (f * share.capacity + g) * ROW_QUADS);
            pose_gaussian<DEGREE>(a, first_frame + f, share.first + g, row);
        }
        __syncwarp();
    }
}

template <int DEGREE, int FRAMES>
__global__ void __launch_bounds__(BLOCK) blend_backward_kernel(const BlendArgs<float> a, int capacity) {
    __shared__ float shared[BLOCK * ODD_ROW];
    float* rows = shared + (threadIdx.x / WARP) * WARP * ODD_ROW;
    const Share share = share_of_warp(a.gaussians, capacity);
    const int lane = threadIdx.x % WARP;
    for (int64_t first_frame = 0; first_frame < a.frames; first_frame += FRAMES) {
        const int frames = int(a.frames - first_frame < FRAMES ? a.frames - first_frame : FRAMES);
        const int g = lane % share.capacity, f = lane / share.capacity;
        if (g < share.count && f < frames) {
            const auto factors = pose_gaussian_backward(a, first_frame + f, share.first + g);
            expand_factors<DEGREE>(factors, SH_MAX_COEFFICIENTS, rows + (f * share.capacity + g) * ODD_ROW);
        }
        __syncwarp();
        for (int i = lane; i < share.count * ROW; i += WARP) {
            float* out = a.v_neutral + share.first * ROW + i;
            float sum = first_frame ? *out : 0.0f;
            for (int k = 0; k < frames; ++k) sum += rows[(k * share.capacity + i / ROW) * ODD_ROW + i % ROW];
            *out = sum;
        }
        __syncwarp();
    }
}

// Gaussians a warp: as many as its lanes can pose, unless that leaves fewer than 8 warps for each multiprocessor.
int warp_capacity(int64_t gaussians, int frames) {
    const int64_t filling = (gaussians + 8 * multiprocessors() - 1) / (8 * multiprocessors());
    return int(std::max<int64_t>(1, std::min<int64_t>(WARP / frames, filling)));
}

// body(degree, frames): compiled for the degree and for 1, 2, 4 or 8 frames at a time.
template <typename Body>
void with_sizes(const BlendArgs<float>& a, Body body) {
    with_degree(a.sh_degree, [&](auto degree) {
        if (a.frames <= 1) return body(degree, std::integral_constant<int, 1>());
        if (a.frames <= 2) return body(degree, std::integral_constant<int, 2>());
        if (a.frames <= 4) return body(degree, std::integral_constant<int, 4>());
        return body(degree, std::integral_constant<int, 8>());
    });
}

template <int DEGREE, int FRAMES, bool HALF>
void launch_forward(const BlendArgs<float>& a, cudaStream_t stream) {
    const auto kernel = blend_forward_kernel<DEGREE, FRAMES, HALF>;
    const int capacity = warp_capacity(a.gaussians, FRAMES);
    const size_t bytes = BLOCK * ROW_QUADS * sizeof(float4) + FRAMES * a.expressions * sizeof(float);
    allow_shared_memory(kernel, bytes);
    launch("blend_forward", kernel, dim3(blocks_for(a.gaussians, int64_t(capacity) * WARPS)), BLOCK, bytes, stream, a,
           capacity);
}

void forward(const BlendArgs<float>& a, cudaStream_t stream) {
    if (a.gaussians == 0 || a.frames == 0) return;
    with_sizes(a, [&](auto degree, auto frames) {
        constexpr int DEGREE = decltype(degree)::value, FRAMES = decltype(frames)::value;
        a.half_values ? launch_forward<DEGREE, FRAMES, true>(a, stream)
                      : launch_forward<DEGREE, FRAMES, false>(a, stream);
    });
}

void backward(const BlendArgs<float>& a, const SharedGradients<float>& shared, cudaStream_t stream) {
    if (a.gaussians == 0) return;
    if (a.frames == 0) {
        check_cuda(cudaMemsetAsync(a.v_neutral, 0, a.gaussians * ROW * sizeof(float), stream), "blend_backward");
        return;
    }
    with_sizes(a, [&](auto degree, auto frames) {
        constexpr int DEGREE = decltype(degree)::value, FRAMES = decltype(frames)::value;
        const int capacity = warp_capacity(a.gaussians, FRAMES);
        const unsigned blocks = blocks_for(a.gaussians, int64_t(capacity) * WARPS);
        launch("blend_backward", blend_backward_kernel<DEGREE, FRAMES>, dim3(blocks), BLOCK, 0, stream, a, capacity);
        launch_shared_gradients<DEGREE, FRAMES>(a, shared, stream);
    });
}

}  // namespace

NATIVE_EXPORT const char* blendshape_ops_last_error() { return c_abi::last_error().c_str(); }
// What Python must agree with; see layout.h.
NATIVE_EXPORT const char* blendshape_ops_layout() {
    static const Layout layout = mirrored_layout();
    return layout.text().c_str();
}
NATIVE_EXPORT int blendshape_ops_blend_forward_f32(const BlendArgs<float>* a, cudaStream_t stream) {
    return c_abi::guarded([&] { forward(*a, stream); });
}
NATIVE_EXPORT int blendshape_ops_blend_backward_f32(const BlendArgs<float>* a, const SharedGradients<float>* shared,
                                                    cudaStream_t stream) {
    return c_abi::guarded([&] { backward(*a, *shared, stream); });
}
