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
