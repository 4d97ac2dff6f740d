// Mean of the K smallest squared distances of every point to the others, all pairs compared: exact, simple, and quick
// enough for the 1e5 points of an avatar, whose distances are needed once.
#include <cfloat>

#include "c_abi.h"
#include "launch.h"

namespace {

constexpr int BLOCK = 256;

// Keeps the K smallest values in ascending order.
template <int K>
__device__ __forceinline__ void insert(float (&best)[K], float value) {
    if (value >= best[K - 1]) return;
    best[K - 1] = value;
#pragma unroll
    for (int i = K - 1; i > 0; --i) {
        const float low = fminf(best[i - 1], best[i]), high = fmaxf(best[i - 1], best[i]);
        best[i - 1] = low;
        best[i] = high;
    }
}

template <int K>
__global__ void __launch_bounds__(BLOCK) mean_squared_distances_kernel(int64_t count, const float* points, float* means) {
    __shared__ float tile[BLOCK][3];
    const int64_t own = int64_t(blockIdx.x) * BLOCK + threadIdx.x;
    const int64_t mine = own < count ? own : count - 1;  // surplus threads help to load
    const float x = points[3 * mine], y = points[3 * mine + 1], z = points[3 * mine + 2];
    float best[K];
    for (int i = 0; i < K; ++i) best[i] = FLT_MAX;
    for (int64_t first = 0; first < count; first += BLOCK) {
        __syncthreads();
        if (first + threadIdx.x < count) {
            for (int i = 0; i < 3; ++i) tile[threadIdx.x][i] = points[3 * (first + threadIdx.x) + i];
        }
        __syncthreads();
        const int size = int(count - first < BLOCK ? count - first : BLOCK);
        for (int i = 0; i < size; ++i) {
            const float dx = tile[i][0] - x, dy = tile[i][1] - y, dz = tile[i][2] - z;
            if (first + i != own) insert(best, dx * dx + dy * dy + dz * dz);
        }
    }
    float sum = 0;
    for (int i = 0; i < K; ++i) sum += best[i];
    if (own < count) means[own] = sum / K;
}

template <int K>
void launch(int64_t count, int k, const float* points, float* means, cudaStream_t stream) {
    if constexpr (K > 8) {
        throw std::invalid_argument("k must be 1 to 8");
    } else {
        if (k != K) return launch<K + 1>(count, k, points, means, stream);
        mean_squared_distances_kernel<K><<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(count, points, means);
        check_cuda(cudaGetLastError(), "mean_squared_distances");
    }
}

}  // namespace

NATIVE_EXPORT const char* simple_knn_last_error() { return c_abi::last_error().c_str(); }
NATIVE_EXPORT int simple_knn_mean_squared_distances_f32(int64_t count, int k, const float* points, float* means,
                                                        cudaStream_t stream) {
    return c_abi::guarded([&] { launch<1>(count, k, points, means, stream); });
}
