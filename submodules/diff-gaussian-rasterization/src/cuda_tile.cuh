// How a block of threads walks the splats of its tile, front to back, THREADS at a time.
#pragma once

#include "cuda_bin.cuh"

// A tile of a frame, and the pixel of this thread: a warp draws a block of 8x4 pixels.
struct TilePixel {
    int frame, tile, left, top, x, y;
    bool inside;
    size_t index;  // within the frame

    __device__ TilePixel(const DgrScene& scene, const DgrCudaWork& work) {
        const int tiles = gridDim.x * gridDim.y;
        const int place = work.tile_cursor[blockIdx.z * tiles + blockIdx.y * gridDim.x + blockIdx.x];
        frame = place / tiles;
        tile = place % tiles;
        left = tile % gridDim.x * constants::TILE;
        top = tile / gridDim.x * constants::TILE;
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        x = left + warp % 2 * BLOCK_WIDTH + lane % BLOCK_WIDTH;
        y = top + warp / 2 * BLOCK_HEIGHT + lane / BLOCK_WIDTH;
        inside = x < scene.width && y < scene.height;
        index = size_t(y) * scene.width + x;
    }
};

// The splats at hand, in shared memory, and for each warp a bit for each splat that touches its pixels.
struct Batch {
    float4 position[THREADS], shape[THREADS], color[THREADS];
    uint32_t gaussian[THREADS];
    uint32_t touching[WARPS][WARPS];  // [block of pixels][splat / 32]

    // Each thread brings the splat of its key, or none.
    __device__ void load(const float* splats, uint64_t key, int left, int top) {
        const int i = threadIdx.x, lane = i % WARP, warp = i / WARP;
        uint32_t blocks = 0;
        if (key != NO_KEY) {
            const uint32_t n = static_cast<uint32_t>(key);
            const float4* record = reinterpret_cast<const float4*>(splats + size_t(RECORD) * n);
            position[i] = record[0];
            shape[i] = record[1];
            color[i] = record[2];
            gaussian[i] = n;
            blocks = touched_blocks(unpack_splat(record[0], record[1], record[2]), left, top);
        }
        for (int block = 0; block < WARPS; ++block) {
            const uint32_t bits = __ballot_sync(FULL_WARP, blocks >> block & 1);
            if (lane == 0) touching[block][warp] = bits;
        }
    }

    // Calls visit(i, splat) for the splats that touch this warp's pixels, until it returns false.
    template <typename Visit>
    __device__ void visit_touching(Visit visit) const {
        for (int group = 0; group < WARPS; ++group) {
            for (uint32_t bits = touching[threadIdx.x / WARP][group]; bits != 0; bits &= bits - 1) {
                const int i = group * WARP + __ffs(static_cast<int>(bits)) - 1;
                if (!visit(i, unpack_splat(position[i], shape[i], color[i]))) return;
            }
        }
    }
};

// The keys of a tile, front to back: from its list, or, where that did not fit, found by searching all Gaussians of the
// frame again and again for the next THREADS. Slow, but right, and gone once the caller has given more memory.
class TileKeys {
  public:
    struct Search {
        uint64_t keys[2 * THREADS];
        uint32_t count;
    };

    __device__ TileKeys(const DgrScene& scene, const DgrCudaWork& work, const TilePixel& pixel, Search& search)
        : splats_(work.splats + size_t(RECORD) * pixel.frame * scene.count),
          list_(work.keys),
          count_(scene.count),
          left_(pixel.left),
          top_(pixel.top),
          search_(search) {
        const size_t tile = size_t(pixel.frame) * gridDim.x * gridDim.y + pixel.tile;
        next_ = work.tile_begin[tile];
        end_ = work.tile_begin[tile + 1];
        listed_ = end_ <= work.capacity;
    }

    __device__ const float* splats() const { return splats_; }

    // The next key of this thread (NO_KEY: none); false when there are none for any thread.
    __device__ bool next(uint64_t& key) {
        if (listed_) {
            if (next_ >= end_) return false;
            key = next_ + threadIdx.x < end_ ? list_[next_ + threadIdx.x] : NO_KEY;
            next_ += THREADS;
            return true;
        }
        if (exhausted_) return false;
        const uint32_t found = find_nearest();
        key = threadIdx.x < found ? search_.keys[threadIdx.x] : NO_KEY;
        exhausted_ = found < THREADS;
        if (found > 0) last_ = search_.keys[found - 1];
        first_search_ = false;
        return found > 0;
    }

  private:
    // Sorts the search's keys and forgets all but the nearest THREADS.
    __device__ void keep_nearest() {
        block_sort(search_.keys, search_.count);
        if (threadIdx.x == 0) search_.count = min(search_.count, static_cast<uint32_t>(THREADS));
        __syncthreads();
    }

    // Leaves the nearest keys behind the last one in the search, sorted; returns their number, at most THREADS.
    __device__ uint32_t find_nearest() {
        __syncthreads();
        if (threadIdx.x == 0) search_.count = 0;
        __syncthreads();
        uint64_t limit = NO_KEY;
        for (int base = 0; base < count_; base += THREADS) {
            const uint64_t key = key_of(base + threadIdx.x);
            if (key < limit && (first_search_ || key > last_)) search_.keys[atomicAdd(&search_.count, 1u)] = key;
            __syncthreads();
            const bool full = search_.count > THREADS;
            __syncthreads();  // every thread has read the count before any adds to it again
            if (!full) continue;
            keep_nearest();
            limit = search_.keys[THREADS - 1];
        }
        keep_nearest();
        return search_.count;
    }

    // The key of a Gaussian that touches this tile, else NO_KEY.
    __device__ uint64_t key_of(int n) const {
        if (n >= count_) return NO_KEY;
        const float4* record = reinterpret_cast<const float4*>(splats_ + size_t(RECORD) * n);
        const float4 color_depth = record[2];
        const Splat<float> s = unpack_splat(record[0], record[1], color_depth);
        const bool touches = s.half_width >= 0.0f && touched_blocks(s, left_, top_) != 0;
        return touches ? depth_key(color_depth.w, n) : NO_KEY;
    }

    const float* splats_;
    const uint64_t* list_;
    const int count_, left_, top_;
    Search& search_;
    uint32_t next_, end_;
    uint64_t last_ = 0;
    bool listed_, exhausted_ = false, first_search_ = true;
};
