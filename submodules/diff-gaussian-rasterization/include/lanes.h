// Arithmetic that reads the same for one pixel (float, double; host and device) and for a vector of pixels (host only).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vec.h"

template <typename V>
struct ScalarOf {
    using type = V;
};

template <typename T>
HD T select(bool condition, T yes, T no) {
    return condition ? yes : no;
}

#ifndef __CUDACC__
#ifdef LANE_BYTES
#elif defined(__AVX__)
#define LANE_BYTES 32
#else
#define LANE_BYTES 16
#endif

// As many numbers as one vector register holds, with elementwise operators (a GCC and Clang extension).
template <typename T>
struct LaneVector {
    typedef T type __attribute__((vector_size(LANE_BYTES)));
};
template <typename T>
using Lanes = typename LaneVector<T>::type;
template <typename T>
constexpr int LANES = LANE_BYTES / sizeof(T);

template <>
struct ScalarOf<Lanes<float>> {
    using type = float;
};
template <>
struct ScalarOf<Lanes<double>> {
    using type = double;
};

template <typename V, typename Mask>
inline V select(Mask condition, V yes, V no) {
    return condition ? yes : no;
}

template <typename T>
inline Lanes<T> load_lanes(const T* p) {
    Lanes<T> v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}
template <typename T>
inline void store_lanes(T* p, Lanes<T> v) {
    std::memcpy(p, &v, sizeof(v));
}

// In a fixed order that depends on nothing but the width.
template <typename T>
inline T sum_lanes(Lanes<T> v) {
    T values[LANES<T>];
    store_lanes(values, v);
    for (int step = LANES<T> / 2; step > 0; step /= 2) {
        for (int i = 0; i < step; ++i) values[i] += values[i + step];
    }
    return values[0];
}

typedef uint32_t BitLanes __attribute__((vector_size(LANE_BYTES)));
inline Lanes<float> add_exponent(Lanes<float> value, Lanes<float> shifted) {
    return (Lanes<float>)((BitLanes)value + ((BitLanes)shifted << 23));
}
inline Lanes<double> exp2_fast(Lanes<double> e) {
    for (int i = 0; i < LANES<double>; ++i) e[i] = std::exp2(e[i]);
    return e;
}
#endif

template <typename V>
HD V quotient(V a, V b) {
    return a / b;
}
#ifdef __CUDA_ARCH__
template <>
HD float quotient(float a, float b) {
    return __fdividef(a, b);
}  // 2 units in the last place
#endif

template <typename V>
HD V broadcast(double value) {
    return V{} + typename ScalarOf<V>::type(value);
}

inline float add_exponent(float value, float shifted) {
    uint32_t bits, exponent;
    std::memcpy(&bits, &value, 4);
    std::memcpy(&exponent, &shifted, 4);
    bits += exponent << 23;
    std::memcpy(&value, &bits, 4);
    return value;
}

// 2^e by a polynomial, relative error below 2e-7 on [-16, 126], where e is cut off.
template <typename V>
HD V exp2_polynomial(V e) {
    const V low = broadcast<V>(-16), high = broadcast<V>(126);
    e = select(e > low, e, low);
    e = select(e < high, e, high);
    const V shifted = e + 12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa
    const V f = e - (shifted - 12582912.0f);
    V p = broadcast<V>(1.3264727e-3);  // minimax fit on [-1/2, 1/2] with p(0) = 1, relative error 9.2e-8
    p = p * f + 9.6715126e-3f;
    p = p * f + 5.5507337e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314698e-1f;
    p = p * f + 1.0f;
    return add_exponent(p, shifted);
}

HD double exp2_fast(double e) {
    return std::exp2(e);
}
#ifdef __CUDACC__
HD float exp2_fast(float e) {
#ifdef __CUDA_ARCH__
    float value;  // relative error 2^-22, denormals flushed: alpha is compared with 1/255 in any case
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(e));
    return value;
#else
    return exp2f(e);
#endif
}
#else
inline float exp2_fast(float e) {
    return exp2_polynomial(e);
}
inline Lanes<float> exp2_fast(Lanes<float> e) {
    return exp2_polynomial(e);
}
#endif
