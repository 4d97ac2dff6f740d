// What the kernels share: launching, and the layout of a splat in device memory.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "scene.h"
#include "tiles.h"

constexpr int WARP = 32;
constexpr uint32_t FULL_WARP = 0xffffffffu;
constexpr int THREADS = constants::TILE * constants::TILE;  // of every kernel: one pixel, or one Gaussian, each
constexpr int WARPS = THREADS / WARP;
constexpr uint64_t NO_KEY = ~uint64_t(0);
static_assert(WARPS == TILE_BLOCKS && WARP == BLOCK_WIDTH * BLOCK_HEIGHT, "a warp draws one block of a tile");

inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream,
            Arguments... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = stream;
    check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

__device__ inline Splat<float> unpack_splat(float4 a, float4 b, float4 c) {
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, {c.x, c.y, c.z}};
}

// A Gaussian's place among the splats of a tile: front to back, equal depths by index.
__device__ inline uint64_t depth_key(float depth, uint32_t gaussian) {
    return uint64_t(__float_as_uint(depth)) << 32 | gaussian;
}
