// Launching CUDA kernels: sizes and errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Blocks that cover `count` items, `per_block` each; an error where a grid cannot have so many.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
    const int64_t blocks = (count + per_block - 1) / per_block;
    if (blocks > 0x7fffffff) throw std::invalid_argument("too many items for one launch");
    return unsigned(blocks);
}

// Shared memory whose size the launch gives, as `type* name`; submodules/native/emulation has its own.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

// Kernels get 48 KiB of shared memory without asking.
template <typename Kernel>
void allow_shared_memory(Kernel kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
               "shared memory for this many frames and expressions");
}

inline int multiprocessors() {
    int device = 0, count = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessor count");
    return count;
}
