// Differences stored for playing: rows of 64 half-precision numbers (60 and padding to whole cache lines) that hold
// mask * value / scale, where the power of two `scale` of a column lets its largest number just fit. Differences of
// positions are some 1e-4 m, which half precision alone would round to 6e-8 m.
#pragma once

#include <cstdint>
#include <cstring>

#include "vec.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

constexpr int HALF_ROW = 64;
constexpr int HALF_LANES = 8;                      // numbers of 16 bytes
constexpr int HALF_PARTS = HALF_ROW / HALF_LANES;  // of a row

// Exact, also for the numbers below the normal range; the table holds no infinity and no NaN.
HD float half_to_float(uint16_t bits) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits));
#else
    const uint32_t magnitude = uint32_t(bits & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;  // from an exponent biased by 15 to one biased by 127
    return bits & 0x8000u ? -value : value;
#endif
}
