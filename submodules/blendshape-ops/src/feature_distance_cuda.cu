// Distance of the features of two pictures at every pixel, as LPIPS measures it, and its gradient: one warp a pixel.
#include "c_abi.h"
#include "launch.h"
#include "vec.h"

namespace {

constexpr int THREADS = 256, WARP = 32;
constexpr float EPS = 1e-10f, EPS_SQUARED = 1e-20f;  // beside the norm, and inside its root

// bfloat16 is the upper half of a float.
struct Bfloat16 {
    uint16_t bits;
};

__device__ float load(const float* values, int64_t i) {
    return values[i];
}
__device__ float load(const Bfloat16* values, int64_t i) {
    const uint32_t bits = uint32_t(values[i].bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
__device__ void store(float* values, int64_t i, float value) {
    values[i] = value;
}
// Rounds to the nearest, ties to even. NaN stays NaN: its fraction may lose the low bits, but not the highest one.
__device__ void store(Bfloat16* values, int64_t i, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    values[i].bits = uint16_t(value != value ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// Length of a pixel's features, without the eps beside it.
template <typename T>
__device__ float length_of(const T* features, int64_t channels, int lane) {
    float sum = 0;
    for (int64_t c = lane; c < channels; c += WARP) sum += load(features, c) * load(features, c);
    return sqrtf(warp_sum(sum) + EPS_SQUARED);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const T* a, const T* b, const float* weights, float* map, int64_t pixels, int64_t channels) {
    const int64_t pixel = int64_t(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    const int lane = threadIdx.x % WARP;
    if (pixel >= pixels) return;  // a whole warp
    a += pixel * channels;
    b += pixel * channels;
    const float by_a = 1 / (length_of(a, channels, lane) + EPS), by_b = 1 / (length_of(b, channels, lane) + EPS);
    float sum = 0;
    for (int64_t c = lane; c < channels; c += WARP) {
        const float difference = load(a, c) * by_a - load(b, c) * by_b;
        sum += weights[c] * difference * difference;
    }
    sum = warp_sum(sum);
    if (lane == 0) map[pixel] = sum;
}

// With s the length of a, n = s + eps, and g the gradient of the unit features a / n:
// v_a = g / n - a (g . a) / (n^2 s).
template <typename T>
__global__ void __launch_bounds__(THREADS) backward_kernel(const T* a, const T* b, const float* weights,
                                                           const float* v_map, T* v_a, int64_t pixels,
                                                           int64_t channels) {
    const int64_t pixel = int64_t(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    const int lane = threadIdx.x % WARP;
    if (pixel >= pixels) return;  // a whole warp
    a += pixel * channels;
    b += pixel * channels;
    v_a += pixel * channels;
    const float length = length_of(a, channels, lane), by_a = 1 / (length + EPS);
    const float by_b = 1 / (length_of(b, channels, lane) + EPS), v = 2 * v_map[pixel];
    float along = 0;
    for (int64_t c = lane; c < channels; c += WARP) {
        const float unit = load(a, c) * by_a;
        along += v * weights[c] * (unit - load(b, c) * by_b) * unit;
    }
    along = warp_sum(along) / length;
    for (int64_t c = lane; c < channels; c += WARP) {
        const float value = load(a, c), g = v * weights[c] * (value * by_a - load(b, c) * by_b);
        store(v_a, c, (g - value * along) * by_a);
    }
}

template <typename T>
void forward(const void* a, const void* b, const float* weights, float* map, int64_t pixels, int64_t channels,
             cudaStream_t stream) {
    launch("feature_distance", forward_kernel<T>, dim3(blocks_for(pixels, THREADS / WARP)), THREADS, 0, stream,
           static_cast<const T*>(a), static_cast<const T*>(b), weights, map, pixels, channels);
}

template <typename T>
void backward(const void* a, const void* b, const float* weights, const float* v_map, void* v_a, int64_t pixels,
              int64_t channels, cudaStream_t stream) {
    launch("feature_distance gradient", backward_kernel<T>, dim3(blocks_for(pixels, THREADS / WARP)), THREADS, 0,
           stream, static_cast<const T*>(a), static_cast<const T*>(b), weights, v_map, static_cast<T*>(v_a), pixels,
           channels);
}

}  // namespace

// a, b [pixels, channels] (half: in bfloat16), weights [channels] -> map [pixels]
NATIVE_EXPORT int blendshape_ops_feature_distance_f32(const void* a, const void* b, const float* weights, float* map,
                                                      int64_t pixels, int64_t channels, int64_t half,
                                                      cudaStream_t stream) {
    return c_abi::guarded([&] {
        if (pixels == 0) return;
        (half ? forward<Bfloat16> : forward<float>)(a, b, weights, map, pixels, channels, stream);
    });
}

// v_map [pixels] -> v_a [pixels, channels], of a's type
NATIVE_EXPORT int blendshape_ops_feature_distance_gradient_f32(const void* a, const void* b, const float* weights,
                                                               const float* v_map, void* v_a, int64_t pixels,
                                                               int64_t channels, int64_t half, cudaStream_t stream) {
    return c_abi::guarded([&] {
        if (pixels == 0) return;
        (half ? backward<Bfloat16> : backward<float>)(a, b, weights, v_map, v_a, pixels, channels, stream);
    });
}
