// Gradients of what many Gaussians share: codes, triangle maps, bones, vertex offsets, camera centres. Run where
// tracking is refined, after blend_backward_kernel, and added to tables that begin with zeros.
#pragma once

#include <algorithm>

#include "launch.h"
#include "row_quads.h"

constexpr int SHARED_WARPS = 4;
constexpr int SHARED_BLOCK = SHARED_WARPS * WARP;
constexpr int BONE_CHUNK = 256;  // Gaussians that a block of bone_gradient_kernel sums up
constexpr int BONE = 12;         // numbers of a bone's transform

// v_beta[b, k] = sum over the pairs p of expression k of mask[p] <values[p], gradient row of (b, Gaussian of p)>, for
// FRAMES frames at once. A warp takes a Gaussian: its first lanes write the rows of one frame each, then each half
// reads a pair's values once for all frames. Blocks sum in shared memory before they touch v_beta.
template <int DEGREE, int FRAMES>
__global__ void __launch_bounds__(SHARED_BLOCK)
    code_gradient_kernel(const BlendArgs<float> a, int64_t first_frame, float* v_beta) {
    DYNAMIC_SHARED(float4, shared);
    float4* rows = shared + (threadIdx.x / WARP) * FRAMES * ROW_QUADS;
    float* sums = reinterpret_cast<float*>(shared + SHARED_WARPS * FRAMES * ROW_QUADS);
    const int frames = int(a.frames - first_frame < FRAMES ? a.frames - first_frame : FRAMES);
    const int lane = threadIdx.x % WARP, quad = lane % HALF_WARP, half = lane / HALF_WARP;
    for (int64_t i = threadIdx.x; i < frames * a.expressions; i += SHARED_BLOCK) sums[i] = 0;
    __syncthreads();
    const int64_t step = int64_t(gridDim.x) * SHARED_WARPS;
    for (int64_t n = int64_t(blockIdx.x) * SHARED_WARPS + threadIdx.x / WARP; n < a.gaussians; n += step) {
        const int64_t begin = a.offsets[n], end = a.offsets[n + 1];
        if (begin == end) continue;
        if (lane < frames) {
            const int64_t item = (first_frame + lane) * a.gaussians + n;
            const auto factors = load_factors(a.v_geometry, a.v_rgb, a.directions, item);
            expand_factors<DEGREE>(factors, SH_MAX_COEFFICIENTS, reinterpret_cast<float*>(rows + lane * ROW_QUADS));
        }
        __syncwarp();
        for (int64_t p = begin + half; p - half < end; p += 2) {
            const bool reads = p < end && quad < active_quads(DEGREE);
            const float4 value = reads ? stream_quad(a.values, p, quad) : float4{};
            float mine = 0;  // the sum of frame `quad`
#pragma unroll
            for (int f = 0; f < FRAMES; ++f) {
                const float4 row = reads && f < frames ? rows[f * ROW_QUADS + quad] : float4{};
                float sum = row.x * value.x + row.y * value.y + row.z * value.z + row.w * value.w;
                for (int s = HALF_WARP / 2; s > 0; s /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, s);
                mine = quad == f ? sum : mine;
            }
            if (p < end && quad < frames) atomicAdd(sums + quad * a.expressions + a.expression[p], a.mask[p] * mine);
        }
        __syncwarp();
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < frames * a.expressions; i += SHARED_BLOCK) {
        if (sums[i] != 0) atomicAdd(v_beta + first_frame * a.expressions + i, sums[i]);
    }
}

// Rows of 16 numbers begin where four can be added at once, which chips from 9.0 on do.
struct AddAtomically {
    __device__ void operator()(float* out, const float* values, int count) const {
        int i = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        for (; i + 4 <= count; i += 4) {
            const float4 four = make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
            atomicAdd(reinterpret_cast<float4*>(out + i), four);
        }
#endif
        for (; i < count; ++i) atomicAdd(out + i, values[i]);
    }
};

template <int COUNT>
__device__ void sum_over_warp(float (&values)[COUNT]) {
    for (int i = 0; i < COUNT; ++i) {
        for (int s = WARP / 2; s > 0; s /= 2) values[i] += __shfl_xor_sync(ALL_LANES, values[i], s);
    }
}

// One warp a piece of a triangle's Gaussians: densification puts hundreds on those of eyes and lips, too many for each to
// add to its triangle's row and for one warp to sum.
__global__ void __launch_bounds__(SHARED_BLOCK)
    surface_gradient_kernel(const BlendArgs<float> a, const SharedGradients<float> out) {
    const int64_t piece = int64_t(blockIdx.x) * SHARED_WARPS + threadIdx.x / WARP, b = blockIdx.y;
    if (piece >= a.pieces) return;
    const int32_t begin = a.piece_begin[piece], end = a.piece_begin[piece + 1];
    if (begin == end) return;
    SurfaceGradient<float> sum{};
    const int lane = threadIdx.x % WARP;
    for (int32_t i = begin + lane; i < end; i += WARP) add_surface_gradient(a, out, b, a.by_triangle[i], sum);
    if (out.triangle_maps) sum_over_warp(sum.map);
    if (out.pre_offsets) sum_over_warp(sum.offsets[0]);
    if (out.post_offsets) sum_over_warp(sum.offsets[1]);
    if (lane == 0) scatter_surface_gradient(a, out, b, a.triangle[a.by_triangle[begin]], sum, AddAtomically());
}

// A block sums BONE_CHUNK Gaussians of a frame; a thread one number of a bone, and three threads the camera's centre.
__global__ void __launch_bounds__(SHARED_BLOCK)
    bone_gradient_kernel(const BlendArgs<float> a, const SharedGradients<float> out) {
    const int64_t begin = int64_t(blockIdx.x) * BONE_CHUNK, b = blockIdx.y;
    const int64_t end = begin + BONE_CHUNK < a.gaussians ? begin + BONE_CHUNK : a.gaussians;
    const int64_t numbers = BONE * a.bone_count;
    for (int64_t i = threadIdx.x; i < numbers + 3; i += SHARED_BLOCK) {
        float sum = 0;
        if (i < numbers && out.bones) {
            for (int64_t n = begin; n < end; ++n) {
                sum += a.weights[n * a.bone_count + i / BONE] * a.v_skin[(b * a.gaussians + n) * BONE + i % BONE];
            }
            atomicAdd(out.bones + b * numbers + i, sum);
        } else if (i >= numbers && out.camera_centers) {
            for (int64_t n = begin; n < end; ++n) sum -= a.v_view[(b * a.gaussians + n) * 3 + i - numbers];
            atomicAdd(out.camera_centers + b * 3 + i - numbers, sum);
        }
    }
}

template <int DEGREE, int FRAMES>
void launch_code_gradient(const BlendArgs<float>& a, float* v_beta, cudaStream_t stream) {
    const auto kernel = code_gradient_kernel<DEGREE, FRAMES>;
    const size_t bytes = SHARED_WARPS * FRAMES * ROW_QUADS * sizeof(float4) + FRAMES * a.expressions * sizeof(float);
    allow_shared_memory(kernel, bytes);
    // Few enough that a block's sums over its many Gaussians are far fewer additions to v_beta.
    const unsigned blocks = std::min<unsigned>(blocks_for(a.gaussians, SHARED_WARPS), 8 * multiprocessors());
    for (int64_t first = 0; first < a.frames; first += FRAMES) {
        launch("code_gradient", kernel, dim3(blocks), SHARED_BLOCK, bytes, stream, a, first, v_beta);
    }
}

template <int DEGREE, int FRAMES>
void launch_shared_gradients(const BlendArgs<float>& a, const SharedGradients<float>& out, cudaStream_t stream) {
    if (out.beta) launch_code_gradient<DEGREE, FRAMES>(a, out.beta, stream);
    if (a.pieces && (out.triangle_maps || out.pre_offsets || out.post_offsets)) {
        const dim3 grid(blocks_for(a.pieces, SHARED_WARPS), unsigned(a.frames));
        launch("surface_gradient", surface_gradient_kernel, grid, SHARED_BLOCK, 0, stream, a, out);
    }
    if (out.bones || out.camera_centers) {
        const dim3 grid(blocks_for(a.gaussians, BONE_CHUNK), unsigned(a.frames));
        launch("bone_gradient", bone_gradient_kernel, grid, SHARED_BLOCK, 0, stream, a, out);
    }
}
