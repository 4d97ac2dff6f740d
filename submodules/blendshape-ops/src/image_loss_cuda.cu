// L1 + D-SSIM + alpha loss on a GPU: one launch forward, one backward. A block takes a 32 x 32 tile of one channel and
// blurs the tile and its margin first along x, then along y, four outputs a thread from values held in registers.
#include <algorithm>

#include "c_abi.h"
#include "launch.h"
#include "ssim.h"

namespace {

constexpr int TILE = SSIM_CUDA_TILE;
constexpr int RUN = 4;  // neighbouring outputs of one thread
constexpr int BLOCK = TILE * TILE / RUN;
constexpr int WIDE = TILE + 2 * SSIM_RADIUS;
constexpr int REACH = RUN + SSIM_TAPS - 1;  // inputs that RUN outputs need

struct Window {
    float weight[SSIM_TAPS];
};

struct Tile {
    int64_t plane, batch, channel, x0, y0;
};

__device__ Tile tile_of_block(const ImageLossArgs<float>& a) {
    const int64_t columns = (a.width + TILE - 1) / TILE, rows = (a.height + TILE - 1) / TILE;
    const int64_t plane = blockIdx.x / (columns * rows), within = blockIdx.x % (columns * rows);
    return {plane, plane / 3, plane % 3, within % columns * TILE, within / columns * TILE};
}

__device__ Window load_window(const float* weights) {
    Window w;
    for (int k = 0; k < SSIM_TAPS; ++k) w.weight[k] = weights[k];
    return w;
}

__device__ float wanted_at(const ImageLossArgs<float>& a, const Tile& t, int64_t y, int64_t x, float background) {
    const uchar4 pixel = reinterpret_cast<const uchar4*>(a.target)[(t.batch * a.height + y) * a.width + x];
    const uint8_t bytes[4] = {pixel.x, pixel.y, pixel.z, pixel.w};
    return wanted_color(bytes, int(t.channel), a.composite != 0, background);
}

// out[i] += sum_k w[k] in[i + k] for the RUN outputs of a thread.
__device__ __forceinline__ void blur_run(const Window& w, const float (&in)[REACH], float (&out)[RUN]) {
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < SSIM_TAPS; ++k) sum += w.weight[k] * in[i + k];
        out[i] = sum;
    }
}

// Blur along y of column `x` of a map blurred along x; outputs are rows y .. y + RUN.
__device__ __forceinline__ void blur_column(const Window& w, const float (*map)[TILE + 1], int x, int y, float (&out)[RUN]) {
    float in[REACH];
#pragma unroll
    for (int k = 0; k < REACH; ++k) in[k] = map[y + k][x];
    blur_run(w, in, out);
}

// Sum over the block; the result is thread 0's.
__device__ double block_sum(double value) {
    __shared__ double parts[BLOCK / 32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (int i = 0; threadIdx.x == 0 && i < BLOCK / 32; ++i) sum += parts[i];
    return sum;
}

// The block that finishes last adds all blocks' sums in order, so that the result does not depend on the schedule.
__device__ void finish(const ImageLossArgs<float>& a, double l1, double similarity, double alpha) {
    int* counter = static_cast<int*>(a.workspace);
    double* sums = static_cast<double*>(a.workspace) + 1;
    __shared__ bool last;
    if (threadIdx.x == 0) {
        sums[3 * blockIdx.x] = l1;
        sums[3 * blockIdx.x + 1] = similarity;
        sums[3 * blockIdx.x + 2] = alpha;
        __threadfence();
        last = atomicAdd(counter, 1) == int(gridDim.x) - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    double total[3] = {0, 0, 0};
    for (unsigned i = threadIdx.x; i < gridDim.x; i += BLOCK) {
        for (int k = 0; k < 3; ++k) total[k] += __ldcg(sums + 3 * i + k);
    }
    for (int k = 0; k < 3; ++k) total[k] = block_sum(total[k]);
    if (threadIdx.x == 0) store_terms(a, total[0], total[1], total[2]);
}

__global__ void __launch_bounds__(BLOCK) image_loss_forward_kernel(const ImageLossArgs<float> a) {
    __shared__ float image[WIDE][WIDE + 1], wanted[WIDE][WIDE + 1];
    __shared__ float maps[5][WIDE][TILE + 1];
    const Tile tile = tile_of_block(a);
    const Window window = load_window(a.window);
    const float background = a.background ? a.background[tile.channel] : 0.0f;
    const int64_t plane = tile.plane * a.height * a.width;
    double l1 = 0, similarity = 0, alpha = 0;
    for (int i = threadIdx.x; i < WIDE * WIDE; i += BLOCK) {
        const int r = i / WIDE, c = i % WIDE;
        const int64_t y = tile.y0 + r - SSIM_RADIUS, x = tile.x0 + c - SSIM_RADIUS;
        const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
        image[r][c] = inside ? a.image[plane + y * a.width + x] : 0.0f;
        wanted[r][c] = inside ? wanted_at(a, tile, y, x, background) : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WIDE * (TILE / RUN); i += BLOCK) {
        const int r = i % WIDE, c = i / WIDE * RUN;  // neighbouring threads on neighbouring rows, an odd stride apart
        float p[REACH], q[REACH], in[REACH], out[RUN];
#pragma unroll
        for (int k = 0; k < REACH; ++k) {
            p[k] = image[r][c + k];
            q[k] = wanted[r][c + k];
        }
#pragma unroll
        for (int m = 0; m < 5; ++m) {
#pragma unroll
            for (int k = 0; k < REACH; ++k) {
                in[k] = m == 0 ? p[k] : m == 1 ? q[k] : m == 2 ? p[k] * p[k] : m == 3 ? q[k] * q[k] : p[k] * q[k];
            }
            blur_run(window, in, out);
#pragma unroll
            for (int k = 0; k < RUN; ++k) maps[m][r][c + k] = out[k];
        }
    }
    __syncthreads();
    const int column = threadIdx.x % TILE, row = threadIdx.x / TILE * RUN;
    float moments[5][RUN];
#pragma unroll
    for (int m = 0; m < 5; ++m) blur_column(window, maps[m], column, row, moments[m]);
    const int64_t size = 3 * a.batch * a.height * a.width, x = tile.x0 + column;
#pragma unroll
    for (int k = 0; k < RUN; ++k) {
        const int64_t y = tile.y0 + row + k;
        if (y >= a.height || x >= a.width) continue;
        const SsimValue<float> s = ssim<float>(
            {moments[0][k], moments[1][k], moments[2][k], moments[3][k], moments[4][k]}, float(a.c1), float(a.c2));
        similarity += s.value;
        l1 += fabsf(image[row + k + SSIM_RADIUS][column + SSIM_RADIUS] - wanted[row + k + SSIM_RADIUS][column + SSIM_RADIUS]);
        const int64_t pixel = y * a.width + x;
        if (a.scratch) {
            a.scratch[plane + pixel] = s.d_i;
            a.scratch[size + plane + pixel] = s.d_ii;
            a.scratch[2 * size + plane + pixel] = s.d_ig;
        }
        if (tile.channel == 0) {
            const int64_t at = tile.batch * a.height * a.width + pixel;
            const float difference = a.alpha[at] - a.target[4 * at + 3] / 255.0f;
            alpha += double(difference) * difference;
        }
    }
    l1 = block_sum(l1);
    similarity = block_sum(similarity);
    alpha = block_sum(alpha);
    finish(a, l1, similarity, alpha);
}

// The window is symmetric, so the adjoint of a blur with zero padding is that blur.
__global__ void __launch_bounds__(BLOCK) image_loss_backward_kernel(const ImageLossArgs<float> a) {
    __shared__ float source[WIDE][WIDE + 1];
    __shared__ float maps[3][WIDE][TILE + 1];
    const Tile tile = tile_of_block(a);
    const int column = threadIdx.x % TILE, row = threadIdx.x / TILE * RUN;
    const int64_t pixels = a.batch * a.height * a.width, plane = tile.plane * a.height * a.width;
    const int64_t x = tile.x0 + column;
    const float upstream = *a.v_total;
    const float alpha_scale = upstream * float(a.alpha_weight * 2 / double(pixels));
    for (int k = 0; a.v_alpha && tile.channel == 0 && k < RUN; ++k) {
        const int64_t y = tile.y0 + row + k, at = tile.batch * a.height * a.width + y * a.width + x;
        if (y < a.height && x < a.width) a.v_alpha[at] = alpha_scale * (a.alpha[at] - a.target[4 * at + 3] / 255.0f);
    }
    if (!a.v_image) return;
    const Window window = load_window(a.window);
    for (int m = 0; m < 3; ++m) {
        __syncthreads();
        for (int i = threadIdx.x; i < WIDE * WIDE; i += BLOCK) {
            const int r = i / WIDE, c = i % WIDE;
            const int64_t y = tile.y0 + r - SSIM_RADIUS, u = tile.x0 + c - SSIM_RADIUS;
            const bool inside = y >= 0 && y < a.height && u >= 0 && u < a.width;
            source[r][c] = inside ? a.scratch[m * 3 * pixels + plane + y * a.width + u] : 0.0f;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < WIDE * (TILE / RUN); i += BLOCK) {
            const int r = i % WIDE, c = i / WIDE * RUN;
            float in[REACH], out[RUN];
#pragma unroll
            for (int k = 0; k < REACH; ++k) in[k] = source[r][c + k];
            blur_run(window, in, out);
#pragma unroll
            for (int k = 0; k < RUN; ++k) maps[m][r][c + k] = out[k];
        }
    }
    __syncthreads();
    float d_i[RUN], d_ii[RUN], d_ig[RUN];
    blur_column(window, maps[0], column, row, d_i);
    blur_column(window, maps[1], column, row, d_ii);
    blur_column(window, maps[2], column, row, d_ig);
    const float background = a.background ? a.background[tile.channel] : 0.0f;
    const float l1_scale = upstream * float(a.l1_weight / double(3 * pixels));
    const float ssim_scale = upstream * float(-a.dssim_weight / double(3 * pixels));
#pragma unroll
    for (int k = 0; k < RUN; ++k) {
        const int64_t y = tile.y0 + row + k;
        if (y >= a.height || x >= a.width) continue;
        const int64_t at = plane + y * a.width + x;
        const float i = a.image[at], g = wanted_at(a, tile, y, x, background);
        a.v_image[at] = l1_scale * sign(i - g) + ssim_scale * (d_i[k] + 2 * i * d_ii[k] + g * d_ig[k]);
    }
}

unsigned tile_count(const ImageLossArgs<float>& a) {
    const int64_t columns = (a.width + TILE - 1) / TILE, rows = (a.height + TILE - 1) / TILE;
    return blocks_for(3 * a.batch * columns * rows, 1);
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_image_loss_forward_f32(const ImageLossArgs<float>* a, cudaStream_t stream) {
    return c_abi::guarded([&] {
        image_loss_forward_kernel<<<tile_count(*a), BLOCK, 0, stream>>>(*a);
        check_cuda(cudaGetLastError(), "image_loss_forward");
    });
}
NATIVE_EXPORT int blendshape_ops_image_loss_backward_f32(const ImageLossArgs<float>* a, cudaStream_t stream) {
    return c_abi::guarded([&] {
        image_loss_backward_kernel<<<tile_count(*a), BLOCK, 0, stream>>>(*a);
        check_cuda(cudaGetLastError(), "image_loss_backward");
    });
}
