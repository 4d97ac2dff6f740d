// The render kernels: one block of threads a tile, one thread a pixel.
#pragma once

#include "cuda_tile.cuh"

// Exponent of alpha, to base 2, at (dx, dy) from the mean.
__device__ inline float splat_exponent(const Splat<float>& s, float dx, float dy) {
    const float slope = s.shear_x * dx + s.shear_y * dy;
    return s.peak - s.fall * dy * dy - slope * slope;
}

__global__ void __launch_bounds__(THREADS) render_kernel(DgrScene scene, DgrCudaWork work, DgrPicture picture) {
    __shared__ Batch batch;
    __shared__ TileKeys::Search search;
    const TilePixel pixel(scene, work);
    TileKeys keys(scene, work, pixel, search);
    float light = pixel.inside ? 1.0f : -1.0f, red = 0.0f, green = 0.0f, blue = 0.0f;
    uint64_t key;
    while (!__syncthreads_and(light < 0.0f) && keys.next(key)) {
        batch.load(keys.splats(), key, pixel.left, pixel.top);
        __syncthreads();
        batch.visit_touching([&](int, const Splat<float>& s) {
            const float weight = blend(pixel_alpha(splat_exponent(s, pixel.x - s.x, pixel.y - s.y)).alpha, light);
            red += weight * s.color[0];
            green += weight * s.color[1];
            blue += weight * s.color[2];
            return __any_sync(FULL_WARP, light > 0.0f) != 0;
        });
    }
    if (!pixel.inside) return;
    light = fabsf(light);
    const size_t area = size_t(scene.width) * scene.height, at = pixel.frame * area + pixel.index;
    const float color[3] = {red, green, blue};
    work.transmittance[at] = light;
    static_cast<float*>(picture.alpha)[at] = 1.0f - light;
    for (int c = 0; c < 3; ++c) {
        const float behind = light * background_at<float>(scene, pixel.frame, c, pixel.index);
        static_cast<float*>(picture.image)[(3 * pixel.frame + c) * area + pixel.index] = color[c] + behind;
    }
}

// Sums 8 numbers over a warp with 9 shuffles instead of 40: at each step a lane hands over the half of its numbers that
// its partner keeps. Lane l returns the sum of number l / 4.
__device__ inline float warp_sum_8(const float* v) {
    const bool upper = threadIdx.x & 16, right = threadIdx.x & 8, odd = threadIdx.x & 4;
    float a[4], b[2];
    for (int i = 0; i < 4; ++i)
        a[i] = (upper ? v[i + 4] : v[i]) + __shfl_xor_sync(FULL_WARP, upper ? v[i] : v[i + 4], 16);
    for (int i = 0; i < 2; ++i)
        b[i] = (right ? a[i + 2] : a[i]) + __shfl_xor_sync(FULL_WARP, right ? a[i] : a[i + 2], 8);
    float c = (odd ? b[1] : b[0]) + __shfl_xor_sync(FULL_WARP, odd ? b[0] : b[1], 4);
    c += __shfl_xor_sync(FULL_WARP, c, 2);
    return c + __shfl_xor_sync(FULL_WARP, c, 1);
}

// Likewise 4 numbers with 6 shuffles; lane l returns the sum of number l / 8.
__device__ inline float warp_sum_4(const float* v) {
    const bool upper = threadIdx.x & 16, right = threadIdx.x & 8;
    float a[2];
    for (int i = 0; i < 2; ++i)
        a[i] = (upper ? v[i + 2] : v[i]) + __shfl_xor_sync(FULL_WARP, upper ? v[i] : v[i + 2], 16);
    float c = (right ? a[1] : a[0]) + __shfl_xor_sync(FULL_WARP, right ? a[0] : a[1], 8);
    for (int step = 4; step > 0; step /= 2) c += __shfl_xor_sync(FULL_WARP, c, step);
    return c;
}

__device__ inline float warp_sum(float v) {
    for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(FULL_WARP, v, step);
    return v;
}

// Adds a warp's sums of a SplatGradient to device memory, all numbers in one instruction. `rest` are number 8 and, with
// the screen gradient, 9 and 10.
template <bool WITH_SCREEN>
__device__ inline void add_warp_sums(float* out, const float* first, const float* rest) {
    const int lane = threadIdx.x % WARP;
    const float sum = warp_sum_8(first);
    const float other = WITH_SCREEN ? warp_sum_4(rest) : warp_sum(rest[0]);
    if (lane % 4 == 0) {
        atomicAdd(out + lane / 4, sum);
    } else if (lane % 8 == 1 && lane < (WITH_SCREEN ? 24 : 8)) {
        atomicAdd(out + 8 + lane / 8, other);
    }
}

// A pixel on its way from front to back: upstream gradients and what lies behind the splat at hand.
struct PixelUpstream {
    float red = 0.0f, green = 0.0f, blue = 0.0f;
    float through_alpha = 0.0f;  // minus the upstream gradient of alpha times the final transmittance
    float behind = 0.0f;         // upstream . (everything behind)

    __device__ PixelUpstream(const DgrScene& scene, const DgrCudaWork& work, const DgrUpstream& upstream,
                             const TilePixel& pixel) {
        if (!pixel.inside) return;
        const size_t area = size_t(scene.width) * scene.height;
        const float *v_image = static_cast<const float*>(upstream.v_image),
                    *v_alpha = static_cast<const float*>(upstream.v_alpha);
        const float* image = static_cast<const float*>(upstream.image) + 3 * pixel.frame * area + pixel.index;
        if (v_alpha) {
            const size_t at = pixel.frame * area + pixel.index;
            through_alpha = -v_alpha[at] * work.transmittance[at];
        }
        if (v_image) {
            v_image += 3 * pixel.frame * area + pixel.index;
            red = v_image[0], green = v_image[area], blue = v_image[2 * area];
            behind = red * image[0] + green * image[area] + blue * image[2 * area];
        }
        behind += through_alpha;
    }
};

template <bool WITH_SCREEN>
__global__ void __launch_bounds__(THREADS)
    render_backward_kernel(DgrScene scene, DgrCudaWork work, DgrUpstream upstream) {
    __shared__ Batch batch;
    __shared__ TileKeys::Search search;
    const TilePixel pixel(scene, work);
    TileKeys keys(scene, work, pixel, search);
    PixelUpstream v(scene, work, upstream, pixel);
    float* gradients = work.splat_gradients + size_t(RECORD) * pixel.frame * scene.count;
    float light = pixel.inside ? 1.0f : -1.0f;
    uint64_t key;
    while (!__syncthreads_and(light < 0.0f) && keys.next(key)) {
        batch.load(keys.splats(), key, pixel.left, pixel.top);
        __syncthreads();
        batch.visit_touching([&](int i, const Splat<float>& s) {
            const float dx = pixel.x - s.x, dy = pixel.y - s.y;
            const PixelAlpha<float> alpha = pixel_alpha(splat_exponent(s, dx, dy));
            const float weight = blend(alpha.alpha, light);
            if (__any_sync(FULL_WARP, weight > 0.0f)) {
                const float v_dot_color = v.red * s.color[0] + v.green * s.color[1] + v.blue * s.color[2];
                const PixelGradient<float> g = blend_backward(alpha, weight, v_dot_color, v.through_alpha, v.behind);
                const float gx = g.full * dx, gy = g.full * dy;
                const float first[8] = {g.full, gx, gy, gx * dx, gx * dy, gy * dy, weight * v.red, weight * v.green};
                const float rest[4] = {weight * v.blue, g.without_alpha * dx, g.without_alpha * dy, 0.0f};
                add_warp_sums<WITH_SCREEN>(gradients + size_t(RECORD) * batch.gaussian[i], first, rest);
            }
            return __any_sync(FULL_WARP, light > 0.0f) != 0;
        });
    }
}

// Gradient of the background: final transmittance times upstream; colours are summed over the frame's pixels.
__global__ void __launch_bounds__(THREADS)
    background_kernel(DgrScene scene, DgrCudaWork work, const float* v_image, float* v_background) {
    const size_t area = size_t(scene.width) * scene.height, pixel = size_t(blockIdx.x) * THREADS + threadIdx.x;
    const int frame = blockIdx.y;
    const float light = pixel < area ? work.transmittance[frame * area + pixel] : 0.0f;
    for (int c = 0; c < 3; ++c) {
        const size_t at = (3 * frame + c) * area + pixel;
        const float v = pixel < area ? light * v_image[at] : 0.0f;
        if (scene.background_kind == BACKGROUND_IMAGE) {
            if (pixel < area) v_background[at] = v;
            continue;
        }
        const float sum = warp_sum(v);
        const int group = scene.background_kind == BACKGROUND_COLOR_PER_FRAME ? frame : 0;
        if (threadIdx.x % WARP == 0) atomicAdd(work.background + 3 * group + c, static_cast<double>(sum));
    }
}
