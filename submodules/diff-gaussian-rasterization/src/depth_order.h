// Stable radix sort of Gaussians by depth: equal depths keep the order of their indices.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

template <typename Key>
struct DepthItem {
    Key key;  // bits of a positive floating-point number: they order as it does
    uint32_t gaussian;
};

template <typename Key>
void sort_by_depth(std::vector<DepthItem<Key>>& items) {
    constexpr int BITS = 11, BINS = 1 << BITS;
    std::vector<DepthItem<Key>> other(items.size());
    for (int shift = 0; shift < static_cast<int>(8 * sizeof(Key)); shift += BITS) {
        std::array<uint32_t, BINS> begin{};
        for (const auto& item : items) ++begin[(item.key >> shift) & (BINS - 1)];
        if (begin[items.empty() ? 0 : (items[0].key >> shift) & (BINS - 1)] == items.size()) continue;  // all alike
        uint32_t total = 0;
        for (uint32_t& entry : begin) {
            const uint32_t size = entry;
            entry = total;
            total += size;
        }
        for (const auto& item : items) other[begin[(item.key >> shift) & (BINS - 1)]++] = item;
        items.swap(other);
    }
}
