// Rows of 60 numbers as a few SIMD vectors (CPU only).
#pragma once

#include <cstring>

#include "blend.h"

// The leading `columns` of a row, rounded up to whole vectors of 32 bytes; the last vector of a full row of floats
// overlaps the one before it, since 60 is not a multiple of 8, and holds the same sums there.
template <typename T, int COLUMNS>
struct RowLanes {
    typedef T Vector __attribute__((vector_size(32)));
    static constexpr int LANES = 32 / sizeof(T);
    static constexpr int COUNT = (COLUMNS + LANES - 1) / LANES;
    Vector part[COUNT];

    static constexpr int start(int i) { return i * LANES + LANES <= ROW ? i * LANES : ROW - LANES; }
    static Vector load(const T* p) {
        Vector v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    void set(const T* row) {
        for (int i = 0; i < COUNT; ++i) part[i] = load(row + start(i));
    }
    void clear() {
        for (int i = 0; i < COUNT; ++i) part[i] = Vector{};
    }
    void add_scaled(T scale, const T* row) {
        for (int i = 0; i < COUNT; ++i) part[i] += scale * load(row + start(i));
    }
    void store(T* row) const {
        for (int i = 0; i < COUNT; ++i) std::memcpy(row + start(i), &part[i], sizeof(Vector));
    }
};

// Dot product of two full rows, in a fixed order of summation.
template <typename T>
T row_dot(const T* a, const T* b) {
    typedef T Vector __attribute__((vector_size(16)));  // divides a row exactly, so nothing is counted twice
    constexpr int LANES = 16 / sizeof(T);
    Vector sum{}, x, y;
    for (int i = 0; i < ROW; i += LANES) {
        std::memcpy(&x, a + i, sizeof x);
        std::memcpy(&y, b + i, sizeof y);
        sum += x * y;
    }
    T total = 0;
    for (int i = 0; i < LANES; ++i) total += sum[i];
    return total;
}
