// Rows of 60 floats on a GPU: the 15 float4 of a row lie in 15 of the 16 lanes of half a warp, so that a warp streams
// two rows at a time.
#pragma once

#include "blend.h"

constexpr int WARP = 32;
constexpr int HALF_WARP = 16;
constexpr int ROW_QUADS = ROW / 4;
constexpr unsigned ALL_LANES = 0xffffffffu;

// float4 of a row that hold active columns; the others are neither read nor written.
HD constexpr int active_quads(int sh_degree) { return (active_columns(sh_degree) + 3) / 4; }

__device__ __forceinline__ void add_scaled(float4& sum, float scale, float4 v) {
    sum.x += scale * v.x;
    sum.y += scale * v.y;
    sum.z += scale * v.z;
    sum.w += scale * v.w;
}

__device__ __forceinline__ float4 load_quad(const float* rows, int64_t row, int quad) {
    return reinterpret_cast<const float4*>(rows)[row * ROW_QUADS + quad];
}

// For tables too large for any cache: the line is not kept.
__device__ __forceinline__ float4 stream_quad(const float* rows, int64_t row, int quad) {
    return __ldcs(reinterpret_cast<const float4*>(rows) + row * ROW_QUADS + quad);
}
