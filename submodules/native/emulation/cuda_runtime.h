// Runs CUDA kernels on the CPU, for tests on machines without a GPU: found in place of the toolkit's header when a .cu
// file is compiled as C++ (g++ -x c++ -I submodules/native/emulation). Every thread of a block is a fiber; blocks run
// one after another. Only what our kernels use is here.
//
// It proves logic, not speed, and finds some races: threads run in ascending and in descending order on alternate
// blocks, a collective that some lanes of a warp never reach is an error, and so is a barrier that cannot be passed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after another, so one copy is enough
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulation::dynamic_shared.data())

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t { cudaSuccess };
typedef void* cudaStream_t;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

namespace emulation {

constexpr int WARP = 32, MAX_WARPS = 32;
constexpr size_t STACK_BYTES = 1 << 16;

struct Barrier {
    int members = 0, arrived = 0;
    unsigned generation = 0;
    int all = 1, last_all = 1;  // conjunction of what this and the previous generation brought along
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK_BYTES);
    bool done = true;
    unsigned collectives = 0;
};

struct Warp {
    Barrier barrier;
    uint64_t values[2][WARP];  // of two collectives in turn: a lane may be one ahead of another, never two
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline std::vector<float4> dynamic_shared;  // of the running block; float4 for its alignment
inline Barrier block;
inline Warp warps[MAX_WARPS];
inline unsigned current;  // thread
inline bool progress;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "CUDA emulation: %s (thread %u)\n", what, current);
    std::abort();
}

inline void release_if_complete(Barrier& barrier) {
    if (barrier.members == 0 || barrier.arrived < barrier.members) return;
    barrier.arrived = 0;
    barrier.last_all = barrier.all;
    barrier.all = 1;
    ++barrier.generation;
}

inline int wait(Barrier& barrier, int predicate = 1) {
    const unsigned generation = barrier.generation;
    progress = true;
    barrier.all &= predicate != 0;
    ++barrier.arrived;
    release_if_complete(barrier);
    while (barrier.generation == generation) swapcontext(&fibers[current].context, &scheduler);
    return barrier.last_all;
}

inline void fiber_main() {
    kernel();
    fibers[current].done = progress = true;
    for (Barrier* barrier : {&block, &warps[current / WARP].barrier}) {
        --barrier->members;
        release_if_complete(*barrier);
    }
    swapcontext(&fibers[current].context, &scheduler);
}

inline void start_threads(unsigned threads) {
    if (threads % WARP != 0 || threads > WARP * MAX_WARPS) fail("a block must be of whole warps, at most 32");
    if (fibers.size() < threads) fibers.resize(threads);
    block = Barrier{static_cast<int>(threads)};
    for (unsigned warp = 0; warp < threads / WARP; ++warp) warps[warp].barrier = Barrier{WARP};
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        fiber.done = false;
        fiber.collectives = 0;
        makecontext(&fiber.context, fiber_main, 0);
    }
}

inline void run_block(unsigned threads, bool descending) {
    start_threads(threads);
    for (bool running = true; running;) {
        running = progress = false;
        for (unsigned i = 0; i < threads; ++i) {
            current = descending ? threads - 1 - i : i;
            if (fibers[current].done) continue;
            running = true;
            swapcontext(&scheduler, &fibers[current].context);
        }
        if (running && !progress) fail("deadlock: some threads never reach a barrier");
    }
}

// Exchanges a value with the 31 other lanes; the caller's number among them is threadIdx.x % 32.
template <typename V>
const uint64_t* exchange(V value) {
    Warp& warp = warps[current / WARP];
    if (warp.barrier.members != WARP) fail("a collective after some lanes of the warp have returned");
    uint64_t* values = warp.values[fibers[current].collectives++ % 2];
    values[current % WARP] = 0;
    std::memcpy(&values[current % WARP], &value, sizeof(V));
    wait(warp.barrier);
    return values;
}

template <typename V>
V from_lane(V value, unsigned lane) {
    const uint64_t* values = exchange(value);
    std::memcpy(&value, &values[lane], sizeof(V));
    return value;
}

struct ThreadIndex {
    unsigned x = 0, y = 0, z = 0;
};
inline ThreadIndex block_index;
inline ThreadIndex thread_index() {
    return {current, 0, 0};
}

}  // namespace emulation

#define threadIdx emulation::thread_index()
#define blockIdx emulation::block_index

inline emulation::ThreadIndex gridDim, blockDim;

inline void __syncthreads() {
    emulation::wait(emulation::block);
}
inline int __syncthreads_and(int predicate) {
    return emulation::wait(emulation::block, predicate);
}

inline void __syncwarp() {
    emulation::exchange(0);
}
template <typename V>
V __ldcs(const V* address) {
    return *address;
}
template <typename V>
void __stcs(V* address, V value) {
    *address = value;
}
template <typename V>
V __shfl_xor_sync(unsigned, V value, int mask) {
    return emulation::from_lane(value, emulation::current % emulation::WARP ^ mask);
}
template <typename V>
V __shfl_sync(unsigned, V value, int lane) {
    return emulation::from_lane(value, lane % emulation::WARP);
}
template <typename V>
V __shfl_up_sync(unsigned, V value, int step) {
    const int lane = emulation::current % emulation::WARP;
    return emulation::from_lane(value, lane >= step ? lane - step : lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    const uint64_t* values = emulation::exchange(predicate != 0);
    unsigned bits = 0;
    for (int i = 0; i < emulation::WARP; ++i) bits |= unsigned(values[i] != 0) << i;
    return bits;
}
inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}

inline int __clz(int value) {
    return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __ffs(int value) {
    return __builtin_ffs(value);
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline int __float_as_int(float value) {
    return static_cast<int>(__float_as_uint(value));
}

template <typename T, typename U>
T atomicAdd(T* address, U value) {
    const T before = *address;
    *address = before + value;
    return before;
}
inline int atomicMax(int* address, int value) {
    const int before = *address;
    *address = max(before, value);
    return before;
}

// A small imaginary GPU.
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaDevAttrMultiProcessorCount };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
    *value = 2;
    return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) {
    return "no error";
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
    std::memset(memory, value, bytes);
    return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*function)(Parameters...),
                               Arguments... arguments) {
    const dim3 grid = config->gridDim, threads = config->blockDim;
    emulation::kernel = [=] { function(arguments...); };
    emulation::dynamic_shared.resize((config->dynamicSmemBytes + sizeof(float4) - 1) / sizeof(float4));
    ::gridDim = {grid.x, grid.y, grid.z};
    ::blockDim = {threads.x, 1, 1};
    bool descending = false;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x, descending = !descending) {
                emulation::block_index = {x, y, z};
                emulation::run_block(threads.x, descending);
            }
        }
    }
    return cudaSuccess;
}
