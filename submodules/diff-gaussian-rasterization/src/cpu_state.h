// What the CPU's forward pass leaves for its backward pass.
#pragma once

#include "buffer.h"
#include "parallel.h"
#include "scene.h"
#include "tiles.h"

// One (tile, Gaussian) pair. `slot` counts the pairs Gaussian by Gaussian, so that the gradients of one Gaussian's
// tiles lie side by side and are summed in an order that no scheduling can change.
struct TileEntry {
    uint32_t gaussian, slot;
};

template <typename T>
struct CpuState {
    Buffer<Splat<T>> splats;      // [B N]; undefined where the Gaussian touches no tile
    Buffer<uint32_t> slots;       // [B N + 1] first slot of each Gaussian
    Buffer<TileEntry> entries;    // by frame and tile, then front to back
    Buffer<uint32_t> tile_begin;  // [B tiles + 1]
    Buffer<uint32_t> blended;     // [B tiles] entries up to where every pixel of the tile has stopped
    Buffer<T> transmittance;      // [B H W] final
};

// A tile's pixels within the picture.
struct TileRect {
    int frame, left, top, columns, rows;
};

inline TileRect tile_rect(const TileGrid& grid, int64_t index) {
    const int tile = static_cast<int>(index % grid.tiles());
    const int left = tile % grid.columns * constants::TILE, top = tile / grid.columns * constants::TILE;
    return {static_cast<int>(index / grid.tiles()), left, top, std::min(constants::TILE, grid.width - left),
            std::min(constants::TILE, grid.height - top)};
}

// A splat within a strip of a tile that is one vector wide: what its rows have in common.
template <typename T>
struct StripSplat {
    using V = Lanes<T>;
    Span rows;  // of the tile
    V dx, shear;

    StripSplat(const Splat<T>& s, const Ellipse<T>& ellipse, const TileRect& rect, int strip, V lane_index) {
        const int left = rect.left + strip * LANES<T>;
        rows = touched_rows(s, ellipse, left, left + LANES<T> - 1, rect.top, rect.top + rect.rows - 1);
        rows.begin -= rect.top;
        rows.end -= rect.top;
        dx = lane_index + (T(left) - s.x);
        shear = dx * s.shear_x;
    }

    // Exponent of alpha, to base 2, along one row.
    V exponent(const Splat<T>& s, T dy) const {
        const V slope = shear + s.shear_y * dy;
        return (s.peak - s.fall * dy * dy) - slope * slope;
    }
};

// 0, 1, 2, ...
template <typename T>
Lanes<T> lane_indices() {
    Lanes<T> v;
    for (int i = 0; i < LANES<T>; ++i) v[i] = T(i);
    return v;
}

template <typename T>
void cpu_forward(const DgrScene& scene, const DgrPicture& picture, CpuState<T>& state);
template <typename T>
void cpu_backward(const DgrScene& scene, const CpuState<T>& state, const DgrUpstream& upstream,
                  const DgrGradients& out);
