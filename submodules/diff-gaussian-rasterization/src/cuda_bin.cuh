// From Gaussians to lists of keys, one per tile, front to back. The number of pairs of a tile and a Gaussian stays on
// the device: lists that do not fit `capacity` are left out here, and the render kernels search those tiles' splats
// anew.
#pragma once

#include "cuda_common.cuh"

// Keys of a tile that are sorted in shared memory; longer lists are sorted where they lie.
constexpr uint32_t SORT_IN_SHARED = 4096;
constexpr int SCAN_THREADS = 1024;

// Tiles that a thread visits alone: one with a splat of hundreds kept its kernel waiting. 16 was better than 4 and 8.
constexpr int TILES_ALONE = 16;
constexpr int COLUMN_LANES = 4, ROW_LANES = WARP / COLUMN_LANES;

// Calls visit(tile, key) for every tile that a lane's splat touches, with that lane's key, if the lane is `active`. To
// be called by all lanes of a warp, which share the work of large splats.
template <typename Visit>
__device__ void visit_tiles_by_warp(const Splat<float>& own, uint64_t key, bool active, const TileGrid& grid,
                                    Visit visit) {
    const bool alone = active && rectangle_tiles(own, grid) <= TILES_ALONE;
    if (alone) {
        visit_tiles(own, grid, [&](int row, int first, int last) {
            for (int column = first; column <= last; ++column) visit(row * grid.columns + column, key);
        });
    }
    const int lane = threadIdx.x % WARP;
    for (uint32_t left = __ballot_sync(FULL_WARP, active && !alone); left; left &= left - 1) {
        const int owner = __ffs(static_cast<int>(left)) - 1;
        const auto its = [&](auto value) { return __shfl_sync(FULL_WARP, value, owner); };
        const Splat<float> s{its(own.x),    its(own.y),          its(own.shear_x),     its(own.shear_y), its(own.fall),
                             its(own.peak), its(own.half_width), its(own.half_height), {}};
        const uint64_t its_key = its(key);
        visit_tiles(
            s, grid,
            [&](int row, int first, int last) {
                for (int column = first + lane % COLUMN_LANES; column <= last; column += COLUMN_LANES)
                    visit(row * grid.columns + column, its_key);
            },
            lane / COLUMN_LANES, ROW_LANES);
    }
}

// One thread a Gaussian: its splat, its radius, and a count for each tile it touches. Invisible: half_width = -1.
__global__ void __launch_bounds__(THREADS) project_kernel(DgrScene scene, DgrCudaWork work, int32_t* radii) {
    const int n = blockIdx.x * THREADS + threadIdx.x, frame = blockIdx.y;
    Splat<float> s{};
    bool visible = false;
    if (n < scene.count) {
        const size_t i = size_t(frame) * scene.count + n;
        const Camera<float> camera = load_frame_camera<float>(scene, frame);
        const Gaussian<float> gaussian = load_gaussian<float>(scene, i);
        const Projection<float> projection = project(camera, gaussian);
        visible = make_splat(camera, gaussian, projection, s);
        if (!visible) s.half_width = -1.0f;
        radii[i] = visible ? splat_radius(camera, projection, s) : 0;
        float4* out = reinterpret_cast<float4*>(work.splats + RECORD * i);
        out[0] = {s.x, s.y, s.shear_x, s.shear_y};
        out[1] = {s.fall, s.peak, s.half_width, s.half_height};
        out[2] = {s.color[0], s.color[1], s.color[2], projection.point.z};
    }
    const TileGrid grid(scene.width, scene.height);
    uint32_t* counts = work.tile_cursor + size_t(frame) * grid.tiles() * CURSOR_STEP;
    visit_tiles_by_warp(s, 0, visible, grid, [&](int tile, uint64_t) { atomicAdd(&counts[tile * CURSOR_STEP], 1u); });
}

// Sum over the threads before this one of a block of SCAN_THREADS; `total` receives the sum over all.
__device__ inline uint64_t block_exclusive_sum(uint64_t value, uint64_t& total) {
    __shared__ uint64_t warp_sums[SCAN_THREADS / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint64_t sum = value;
    for (int step = 1; step < WARP; step *= 2) {
        const uint64_t other = __shfl_up_sync(FULL_WARP, sum, step);
        if (lane >= step) sum += other;
    }
    if (lane == WARP - 1) warp_sums[warp] = sum;
    __syncthreads();
    uint64_t before = 0;
    total = 0;
    for (int i = 0; i < SCAN_THREADS / WARP; ++i) {
        if (i < warp) before += warp_sums[i];
        total += warp_sums[i];
    }
    return before + sum - value;
}

// One block: first key of every tile, from the counts; the counts become the cursors of scatter_kernel. Cursors cannot
// wrap: they start at MAX_CAPACITY + 1 = 2^31 at most, and a tile has fewer than 2^31 Gaussians.
__global__ void __launch_bounds__(SCAN_THREADS) scan_kernel(DgrCudaWork work, int tiles) {
    const int each = (tiles + SCAN_THREADS - 1) / SCAN_THREADS;
    const int first = min(tiles, static_cast<int>(threadIdx.x) * each), last = min(tiles, first + each);
    uint64_t own = 0, total;
    for (int tile = first; tile < last; ++tile) own += work.tile_cursor[size_t(tile) * CURSOR_STEP];
    uint64_t begin = block_exclusive_sum(own, total);
    const uint64_t most = MAX_CAPACITY + 1;  // what begins there is beyond any capacity, so nothing is stored or read
    for (int tile = first; tile < last; ++tile) {
        uint32_t& cursor = work.tile_cursor[size_t(tile) * CURSOR_STEP];
        const uint32_t count = cursor;
        work.tile_begin[tile] = cursor = static_cast<uint32_t>(min(begin, most));
        begin += count;
    }
    if (threadIdx.x != 0) return;
    work.tile_begin[tiles] = static_cast<uint32_t>(min(total, most));
    *work.needed = work.tile_begin[tiles];
}

// One thread a Gaussian: its key into each of its tiles' lists, in no particular order.
__global__ void __launch_bounds__(THREADS) scatter_kernel(DgrScene scene, DgrCudaWork work) {
    const int n = blockIdx.x * THREADS + threadIdx.x, frame = blockIdx.y;
    Splat<float> s{};
    s.half_width = -1.0f;
    uint64_t own_key = 0;
    if (n < scene.count) {
        const float4* record =
            reinterpret_cast<const float4*>(work.splats + RECORD * (size_t(frame) * scene.count + n));
        const float4 color_depth = record[2];
        s = unpack_splat(record[0], record[1], color_depth);
        own_key = depth_key(color_depth.w, n);
    }
    const TileGrid grid(scene.width, scene.height);
    uint32_t* cursors = work.tile_cursor + size_t(frame) * grid.tiles() * CURSOR_STEP;
    visit_tiles_by_warp(s, own_key, s.half_width >= 0.0f, grid, [&](int tile, uint64_t key) {
        const uint32_t slot = atomicAdd(&cursors[tile * CURSOR_STEP], 1u);
        if (slot < work.capacity) work.keys[slot] = key;
    });
}

// Of a list's length, four to a doubling; longer lists have larger ones.
constexpr uint32_t LENGTH_CLASSES = 128;
__device__ inline uint32_t length_class(uint32_t length) {
    if (length < 4) return length;
    const uint32_t log = 31 - __clz(static_cast<int>(length));
    return 4 * log - 4 + (length >> (log - 2) & 3);
}

// One block, after scatter_kernel: the tiles in the order in which they are drawn, longest lists first, so that the last
// blocks to finish are short ones. The order takes the place of the cursors.
__global__ void __launch_bounds__(SCAN_THREADS) order_kernel(DgrCudaWork work, int tiles) {
    __shared__ uint32_t places[LENGTH_CLASSES];
    if (threadIdx.x < LENGTH_CLASSES) places[threadIdx.x] = 0;
    __syncthreads();
    for (int tile = threadIdx.x; tile < tiles; tile += SCAN_THREADS)
        atomicAdd(&places[length_class(work.tile_begin[tile + 1] - work.tile_begin[tile])], 1u);
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t before = 0;
        for (int i = LENGTH_CLASSES - 1; i >= 0; --i) {
            const uint32_t count = places[i];
            places[i] = before;
            before += count;
        }
    }
    __syncthreads();
    for (int tile = threadIdx.x; tile < tiles; tile += SCAN_THREADS) {
        const uint32_t length = work.tile_begin[tile + 1] - work.tile_begin[tile];
        work.tile_cursor[atomicAdd(&places[length_class(length)], 1u)] = tile;
    }
}

__device__ inline void order_pair(uint64_t* keys, uint32_t low, uint32_t high, uint32_t count) {
    if (high >= count) return;
    const uint64_t a = keys[low], b = keys[high];
    if (a > b) {
        keys[low] = b;
        keys[high] = a;
    }
}

// Ascending bitonic sort by one block of THREADS, in the variant whose every exchange puts the smaller key first, so
// that the missing keys of a count that is no power of two act as infinities without being there.
__device__ inline void block_sort(uint64_t* keys, uint32_t count) {
    uint32_t half_size = 1, log_half = 0;  // half of the smallest power of two that is at least count
    while (2 * half_size < count) half_size *= 2;
    for (uint32_t half = 1; half <= half_size; half *= 2, ++log_half) {
        for (uint32_t pair = threadIdx.x; pair < half_size; pair += THREADS) {
            const uint32_t base = pair >> log_half << (log_half + 1), offset = pair & (half - 1);
            order_pair(keys, base + offset, base + 2 * half - 1 - offset, count);
        }
        __syncthreads();
        for (uint32_t log_step = log_half; log_step-- > 0;) {
            for (uint32_t pair = threadIdx.x; pair < half_size; pair += THREADS) {
                const uint32_t low = (pair >> log_step << (log_step + 1)) + (pair & ((1u << log_step) - 1));
                order_pair(keys, low, low + (1u << log_step), count);
            }
            __syncthreads();
        }
    }
}

// One block a tile: sorts its list.
__global__ void __launch_bounds__(THREADS) sort_kernel(DgrCudaWork work) {
    __shared__ uint64_t shared_keys[SORT_IN_SHARED];
    const uint32_t begin = work.tile_begin[blockIdx.x], end = work.tile_begin[blockIdx.x + 1];
    if (end > work.capacity || end - begin < 2) return;
    const uint32_t count = end - begin;
    uint64_t* keys = work.keys + begin;
    if (count > SORT_IN_SHARED) {
        block_sort(keys, count);
        return;
    }
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) shared_keys[i] = keys[i];
    __syncthreads();
    block_sort(shared_keys, count);
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) keys[i] = shared_keys[i];
}
