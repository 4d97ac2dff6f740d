// Which tiles and rows a splat touches: exactly those where the ellipse alpha >= ALPHA_MIN reaches.
#pragma once

#include <cstdint>

#include "splat.h"

struct TileGrid {
    int width, height, columns, rows;
    HD TileGrid(int w, int h)
        : width(w),
          height(h),
          columns((w + constants::TILE - 1) / constants::TILE),
          rows((h + constants::TILE - 1) / constants::TILE) {}
    HD int tiles() const { return columns * rows; }
};

// Pixels by which intervals are widened: rounding must not cut what the alpha test would keep.
constexpr double TILE_MARGIN = 0.01;

// Integers within [low, high], clipped to [first, last]; empty if begin > end.
struct Span {
    int begin, end;
};

template <typename T>
HD Span clipped_span(T low, T high, int first, int last) {
    using std::ceil;
    using std::floor;
    const T begin = ceil(low - T(TILE_MARGIN)), end = floor(high + T(TILE_MARGIN));
    // Compared as floating-point numbers first: a huge splat's interval does not fit an int.
    return {begin > T(first) ? (begin < T(last + 1) ? static_cast<int>(begin) : last + 1) : first,
            end < T(last) ? (end > T(first - 1) ? static_cast<int>(end) : first - 1) : last};
}

// The ellipse alpha >= ALPHA_MIN as xx dx^2 + 2 xy dx dy + yy dy^2 <= level.
template <typename T>
struct Ellipse {
    T xx, xy, yy, inverse_xx, inverse_yy, determinant, level;
    T dy_at_right, dx_at_bottom;  // where its extremes lie; those on the other side are their negatives

    HD explicit Ellipse(const Splat<T>& s)
        : xx(s.shear_x * s.shear_x),
          xy(s.shear_x * s.shear_y),
          yy(s.shear_y * s.shear_y + s.fall),
          inverse_xx(T(1) / xx),
          inverse_yy(T(1) / yy),
          determinant(xx * s.fall),
          level(s.peak - T(constants::LOG2_ALPHA_MIN)),
          dy_at_right(-xy * inverse_yy * s.half_width),
          dx_at_bottom(-xy * inverse_xx * s.half_height) {}
};

template <typename T>
struct Interval {
    T low, high;
};

// Extent along one axis of the part of the ellipse whose other coordinate lies within [low, high]: the ellipse's own
// extreme if that lies there, else the nearest edge. along: xx for the extent in x, yy for that in y; scale: 1 / along.
template <typename T>
HD Interval<T> extent_within(const Ellipse<T>& e, T along, T scale, T at_extreme, T low, T high) {
    using std::sqrt;
    const T at_high = at_extreme < low ? low : (at_extreme > high ? high : at_extreme);
    const T at_low = -at_extreme < low ? low : (-at_extreme > high ? high : -at_extreme);
    const T square_high = along * e.level - e.determinant * at_high * at_high;
    const T square_low = along * e.level - e.determinant * at_low * at_low;
    return {scale * (-e.xy * at_low - sqrt(square_low > T(0) ? square_low : T(0))),
            scale * (-e.xy * at_high + sqrt(square_high > T(0) ? square_high : T(0)))};
}

// Tiles of the rectangle around the splat: at least as many as it touches.
template <typename T>
HD int rectangle_tiles(const Splat<T>& s, const TileGrid& grid) {
    const Span rows = clipped_span(s.y - s.half_height, s.y + s.half_height, 0, grid.height - 1);
    const Span columns = clipped_span(s.x - s.half_width, s.x + s.half_width, 0, grid.width - 1);
    if (rows.begin > rows.end || columns.begin > columns.end) return 0;
    return (rows.end / constants::TILE - rows.begin / constants::TILE + 1) *
           (columns.end / constants::TILE - columns.begin / constants::TILE + 1);
}

// Calls visit(tile_row, first_column, last_column) for every row of tiles that the splat touches, or for every step-th
// one from the first + offset on.
template <typename T, typename Visit>
HD void visit_tiles(const Splat<T>& s, const TileGrid& grid, Visit visit, int offset = 0, int step = 1) {
    const Span rows = clipped_span(s.y - s.half_height, s.y + s.half_height, 0, grid.height - 1);
    if (rows.begin > rows.end) return;
    const Ellipse<T> ellipse(s);
    for (int row = rows.begin / constants::TILE + offset; row <= rows.end / constants::TILE; row += step) {
        const int top = row * constants::TILE, bottom = top + constants::TILE - 1;
        const T dy_top = (top > rows.begin ? top : rows.begin) - s.y;
        const T dy_bottom = (bottom < rows.end ? bottom : rows.end) - s.y;
        const Interval<T> x =
            extent_within(ellipse, ellipse.xx, ellipse.inverse_xx, ellipse.dy_at_right, dy_top, dy_bottom);
        const Span columns = clipped_span(s.x + x.low, s.x + x.high, 0, grid.width - 1);
        if (columns.begin <= columns.end) visit(row, columns.begin / constants::TILE, columns.end / constants::TILE);
    }
}

// Rows within [first, last] that the splat touches in the pixel columns [left, right].
template <typename T>
HD Span touched_rows(const Splat<T>& s, const Ellipse<T>& ellipse, int left, int right, int first, int last) {
    const T reach = s.half_width + T(TILE_MARGIN), dx_left = left - s.x, dx_right = right - s.x;
    if (dx_left > reach || dx_right < -reach) return {first, first - 1};
    const T low = dx_left > -reach ? dx_left : -reach, high = dx_right < reach ? dx_right : reach;
    const Interval<T> y = extent_within(ellipse, ellipse.yy, ellipse.inverse_yy, ellipse.dx_at_bottom, low, high);
    return clipped_span(s.y + y.low, s.y + y.high, first, last);
}

// A tile is drawn in blocks of 8x4 pixels, numbered left to right, then down. Returns a bit for each block that the
// splat touches; (left, top) is the tile's first pixel.
constexpr int BLOCK_WIDTH = 8, BLOCK_HEIGHT = 4;
constexpr int TILE_BLOCKS = constants::TILE * constants::TILE / (BLOCK_WIDTH * BLOCK_HEIGHT);

template <typename T>
HD uint32_t touched_blocks(const Splat<T>& s, int left, int top) {
    const Ellipse<T> ellipse(s);
    const T reach = s.half_height + T(TILE_MARGIN);
    uint32_t bits = 0;
    for (int band = 0; band < constants::TILE / BLOCK_HEIGHT; ++band) {
        const T dy_first = top + band * BLOCK_HEIGHT - s.y, dy_last = dy_first + (BLOCK_HEIGHT - 1);
        if (dy_first > reach || dy_last < -reach) continue;
        const T low = dy_first > -reach ? dy_first : -reach, high = dy_last < reach ? dy_last : reach;
        const Interval<T> x = extent_within(ellipse, ellipse.xx, ellipse.inverse_xx, ellipse.dy_at_right, low, high);
        const Span columns = clipped_span(s.x + x.low, s.x + x.high, left, left + constants::TILE - 1);
        if (columns.begin > columns.end) continue;
        if (columns.begin < left + BLOCK_WIDTH) bits |= 1u << (2 * band);
        if (columns.end >= left + BLOCK_WIDTH) bits |= 2u << (2 * band);
    }
    return bits;
}
