// What only playing needs, on a GPU: the drive of frames from their codes in one launch, and pictures as bytes.
#include "c_abi.h"
#include "launch.h"
#include "play.h"

namespace {

constexpr int THREADS = 512;
constexpr int COLUMNS = 80;  // threads that share a code of the linear part: 75 rows, rounded up
constexpr int GROUPS = THREADS / COLUMNS;
constexpr int QUADS = TRIANGLE_MAP / 4;

// One block: bones, camera centre and limited codes of frame b. Codes are dealt to groups of threads, whose loads from
// the table are in flight together; one thread does the short rest.
__device__ void head_motion(const DriveArgs<float>& a, int64_t b, const Mat3<float>* turns, const float* features) {
    __shared__ float partial[GROUPS][COLUMNS];
    __shared__ float linear[LINEAR_ROWS];
    const int row = threadIdx.x % COLUMNS, group = threadIdx.x / COLUMNS;
    if (row < LINEAR_ROWS && group < GROUPS) {
        float sum = 0;
#pragma unroll 8
        for (int64_t k = group; k < a.head_expressions; k += GROUPS) {
            sum += a.expression[b * a.head_expressions + k] * a.linear[k * LINEAR_ROWS + row];
        }
        for (int64_t k = group; k < a.features; k += GROUPS) {
            sum += features[k] * a.linear[(a.head_expressions + k) * LINEAR_ROWS + row];
        }
        partial[group][row] = sum;
    }
    if (threadIdx.x < a.expressions) {
        const float share = code_share(a, b);
        for (int64_t k = threadIdx.x; k < a.expressions; k += THREADS) limit_code(a, b, k, share);
    }
    __syncthreads();
    if (threadIdx.x < LINEAR_ROWS) {
        float sum = a.base[threadIdx.x];
        for (int g = 0; g < GROUPS; ++g) sum += partial[g][threadIdx.x];
        linear[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) pose_bones(a, b, turns, linear);
}

// Frame blockIdx.y. Block 0: the head's motion; then `map_blocks` of triangle maps, the rest of vertex offsets.
__global__ void __launch_bounds__(THREADS) drive_kernel(const DriveArgs<float> a, unsigned map_blocks) {
    __shared__ Mat3<float> turns[JOINTS - 1];
    __shared__ float features[FEATURES];
    const int64_t b = blockIdx.y;
    if (blockIdx.x > 0 && blockIdx.x <= map_blocks) {
        const int64_t item = int64_t(blockIdx.x - 1) * THREADS + threadIdx.x;
        if (item < a.triangles * QUADS) map_quad(a, b, item / QUADS, int(item % QUADS));
        return;
    }
    if (threadIdx.x < JOINTS - 1) {
        turns[threadIdx.x] = joint_turn(a, b, int(threadIdx.x) + 1);
        store_feature(turns[threadIdx.x], features + 9 * threadIdx.x);
    }
    __syncthreads();
    if (blockIdx.x == 0) {
        head_motion(a, b, turns, features);
        return;
    }
    const int64_t i = int64_t(blockIdx.x - 1 - map_blocks) * THREADS + threadIdx.x;
    if (i < 3 * a.vertices) vertex_offsets(a, b, i, features);
}

void drive(const DriveArgs<float>& a, cudaStream_t stream) {
    if (a.frames == 0) return;
    const unsigned maps = blocks_for(a.triangles * QUADS, THREADS);
    const unsigned offsets = a.pre_offsets || a.post_offsets ? blocks_for(3 * a.vertices, THREADS) : 0;
    launch("drive", drive_kernel, dim3(1 + maps + offsets, unsigned(a.frames)), THREADS, 0, stream, a, maps);
}

__global__ void __launch_bounds__(THREADS) bytes_kernel(const float* image, uint8_t* bytes, int64_t area) {
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x, b = blockIdx.y;
    if (i >= area) return;
    for (int c = 0; c < 3; ++c) bytes[(b * area + i) * 3 + c] = color_byte(image[(3 * b + c) * area + i]);
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_drive_f32(const DriveArgs<float>* a, cudaStream_t stream) {
    return c_abi::guarded([&] { drive(*a, stream); });
}

// image [B,3,area] -> bytes [B,area,3]
NATIVE_EXPORT int blendshape_ops_to_bytes_f32(const float* image, uint8_t* bytes, int64_t frames, int64_t area,
                                              int64_t, cudaStream_t stream) {
    return c_abi::guarded([&] {
        if (frames == 0 || area == 0) return;
        launch("to_bytes", bytes_kernel, dim3(blocks_for(area, THREADS), unsigned(frames)), THREADS, 0, stream, image,
               bytes, area);
    });
}
