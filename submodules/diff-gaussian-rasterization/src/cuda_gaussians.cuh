// From the gradients of splats to those of Gaussians, cameras and statistics.
#pragma once

#include "cuda_render.cuh"

// Called by all threads of a block, whose Gaussians are of one frame: the block's sum goes to `out`. Every warp adding
// its own was 300 us of a step of 8 frames.
__device__ inline void add_camera_gradient(const CameraGradient<float>& v, double* out) {
    __shared__ double sums[CAMERA_NUMBERS];
    const float* numbers = &v.R.row[0].x;
    static_assert(sizeof(CameraGradient<float>) == CAMERA_NUMBERS * sizeof(float), "the numbers lie side by side");
    if (threadIdx.x < CAMERA_NUMBERS) sums[threadIdx.x] = 0;
    __syncthreads();
    for (int i = 0; i < CAMERA_NUMBERS; ++i) {
        const float sum = warp_sum(numbers[i]);
        if (threadIdx.x % WARP == 0) atomicAdd(sums + i, static_cast<double>(sum));
    }
    __syncthreads();
    if (threadIdx.x < CAMERA_NUMBERS) atomicAdd(out + threadIdx.x, sums[threadIdx.x]);
}

__device__ inline void add_statistics(const DgrGradients& out, int n, int radius, float x, float y) {
    atomicAdd(out.grad_sum + n, sqrtf(x * x + y * y));
    atomicAdd(out.count + n, 1.0f);
    // Floats that are not negative order like their bits.
    atomicMax(reinterpret_cast<int*>(out.max_radius + n), __float_as_int(static_cast<float>(radius)));
}

__device__ inline SplatGradient<float> load_splat_gradient(const float* p, bool with_screen) {
    const float4* record = reinterpret_cast<const float4*>(p);
    const float4 a = record[0], b = record[1], c = record[2];
    return {a.x, a.y, a.z, a.w, b.x, b.y, {b.z, b.w, c.x}, with_screen ? c.y : a.y, with_screen ? c.z : a.z};
}

__device__ inline void store_gradient(const DgrGradients& out, size_t i, const GaussianGradient<float>& v,
                                      const float* v_color) {
    store3(static_cast<float*>(out.means) + 3 * i, v.mean);
    store_quat(static_cast<float*>(out.quats) + 4 * i, v.quat);
    store3(static_cast<float*>(out.scales) + 3 * i, v.scale);
    static_cast<float*>(out.opacities)[i] = v.opacity;
    for (int c = 0; c < 3; ++c) static_cast<float*>(out.colors)[3 * i + c] = v_color[c];
}

// One thread a Gaussian of a frame.
__global__ void __launch_bounds__(THREADS)
    gaussian_backward_kernel(DgrScene scene, DgrCudaWork work, const int32_t* radii, bool with_screen,
                             DgrGradients out) {
    const int n = blockIdx.x * THREADS + threadIdx.x, frame = blockIdx.y;
    const size_t i = size_t(frame) * scene.count + n;
    CameraGradient<float> v_camera{};
    if (n < scene.count) {
        const bool visible = work.splats[RECORD * i + 6] >= 0.0f;  // half_width
        GaussianGradient<float> v{};
        SplatGradient<float> sum{};
        float x = 0.0f, y = 0.0f;
        if (visible) {
            sum = load_splat_gradient(work.splat_gradients + RECORD * i, with_screen);
            const Camera<float> camera = load_frame_camera<float>(scene, frame);
            const Gaussian<float> gaussian = load_gaussian<float>(scene, i);
            const Projection<float> projection = project(camera, gaussian);
            v = project_backward(camera, gaussian, projection, sum, v_camera);
            const Conic<float> q = conic_of(projection);
            x = (q.xx * sum.screen_x + q.xy * sum.screen_y) * 0.5f * scene.width;
            y = (q.xy * sum.screen_x + q.yy * sum.screen_y) * 0.5f * scene.height;
        }
        store_gradient(out, i, v, sum.color);
        if (out.means2d) reinterpret_cast<float2*>(out.means2d)[i] = {x, y};
        if (out.grad_sum && radii[i] > 0) add_statistics(out, n, radii[i], x, y);
    }
    if (out.R) add_camera_gradient(v_camera, work.camera + size_t(CAMERA_NUMBERS) * frame);
}

// One thread a frame: the camera's gradient from its sums.
__global__ void __launch_bounds__(THREADS) camera_kernel(DgrScene scene, DgrCudaWork work, DgrGradients out) {
    const int frame = blockIdx.x * THREADS + threadIdx.x;
    if (frame >= scene.batch) return;
    const double* sums = work.camera + size_t(CAMERA_NUMBERS) * frame;
    float *R = static_cast<float*>(out.R) + 9 * frame, *t = static_cast<float*>(out.t) + 3 * frame;
    float* K = static_cast<float*>(out.K) + 9 * frame;
    for (int i = 0; i < 9; ++i) R[i] = static_cast<float>(sums[i]);
    for (int i = 0; i < 3; ++i) t[i] = static_cast<float>(sums[9 + i]);
    for (int i = 0; i < 9; ++i) K[i] = i < 6 ? static_cast<float>(sums[12 + i]) : 0.0f;
}

// One block: the gradient of background colours from its sums.
__global__ void __launch_bounds__(THREADS) background_color_kernel(DgrCudaWork work, int numbers, float* out) {
    for (int i = threadIdx.x; i < numbers; i += THREADS) out[i] = static_cast<float>(work.background[i]);
}
