// The C interface of both libraries. All arrays are contiguous; `void*` are of the function's scalar (float, double).
#pragma once

#include <cstdint>

enum BackgroundKind : int32_t { BACKGROUND_BLACK, BACKGROUND_COLOR, BACKGROUND_COLOR_PER_FRAME, BACKGROUND_IMAGE };

struct DgrScene {
    int32_t batch, count, width, height;
    int32_t background_kind;
    int32_t threads;                                          // CPU library: 0 for the default
    const void *means, *quats, *scales, *opacities, *colors;  // [B,N,3], [B,N,4], [B,N,3], [B,N], [B,N,3]
    const void *R, *t, *K;                                    // [B,3,3], [B,3], [B,3,3]
    const void* background;                                   // null, [3], [B,3], [B,3,H,W]
};

struct DgrPicture {
    void *image, *alpha;  // [B,3,H,W], [B,H,W]
    int32_t* radii;       // [B,N]
};

struct DgrUpstream {
    const void *v_image, *v_alpha;  // either may be null
    const void* image;              // the forward pass's
    const int32_t* radii;           // the forward pass's
};

struct DgrGradients {
    void *means, *quats, *scales, *opacities, *colors;
    void *R, *t, *K;                       // all null or none
    void* background;                      // like the background; may be null
    void* means2d;                         // [B,N,2], NDC scale, without the alpha output's part; may be null
    float *grad_sum, *count, *max_radius;  // [N] each, added to; all null or none
};

// Of the CUDA library's device memory. Each tile's cursor has a cache line of its own: the memory takes one atomic
// operation on a line at a time.
constexpr int CURSOR_STEP = 32;
constexpr int RECORD = 12;          // numbers of a Gaussian, as three float4: a splat and its depth, or its gradient
constexpr int CAMERA_NUMBERS = 18;  // R, t, first two rows of K
constexpr uint32_t MAX_CAPACITY = 0x7fffffff;

// Device memory of the CUDA library, allocated by the caller; the backward pass needs all of the forward pass's.
struct DgrCudaWork {
    float* splats;           // [B,N,RECORD]
    uint32_t* tile_cursor;   // [B tiles CURSOR_STEP]
    uint32_t* tile_begin;    // [B tiles + 1]
    uint64_t* keys;          // [capacity] depth and index of every pair of a tile and a Gaussian
    float* transmittance;    // [B,H,W]
    float* splat_gradients;  // [B,N,RECORD]; backward pass only
    double* camera;          // [B,CAMERA_NUMBERS]; backward pass, where the camera's gradient is wanted
    double* background;      // [3 B]; backward pass, where the gradient of a background colour is wanted
    uint32_t* needed;        // host memory that the device can write: receives the number of pairs
    uint32_t capacity;       // at most MAX_CAPACITY
};
