// Which tiles and rows a splat touches: exactly those where the ellipse alpha >= ALPHA_MIN reaches.
#pragma once

#include "splat.h"

struct TileGrid {
    int width, height, columns, rows;
    HD TileGrid(int w, int h)
        : width(w), height(h), columns((w + constants::TILE - 1) / constants::TILE),
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

// Calls visit(tile_row, first_column, last_column) for every row of tiles that the splat touches. Within one row of
// tiles the ellipse's leftmost and rightmost points are at its own extremes if those lie in the row, else on its edges.
template <typename T, typename Visit>
HD void visit_tiles(const Splat<T>& s, const TileGrid& grid, Visit visit) {
    using std::sqrt;
    const Span rows = clipped_span(s.y - s.half_height, s.y + s.half_height, 0, grid.height - 1);
    if (rows.begin > rows.end) return;
    const T level = s.peak - T(constants::LOG2_ALPHA_MIN);
    const T dy_right = -s.shear_y * sqrt(level / (s.fall * (s.shear_y * s.shear_y + s.fall)));
    const T width = T(1) / s.shear_x;
    for (int row = rows.begin / constants::TILE; row <= rows.end / constants::TILE; ++row) {
        const int top = row * constants::TILE, bottom = top + constants::TILE - 1;
        const T dy_top = (top > rows.begin ? top : rows.begin) - s.y;
        const T dy_bottom = (bottom < rows.end ? bottom : rows.end) - s.y;
        const T at_right = dy_right < dy_top ? dy_top : (dy_right > dy_bottom ? dy_bottom : dy_right);
        const T at_left = -dy_right < dy_top ? dy_top : (-dy_right > dy_bottom ? dy_bottom : -dy_right);
        const T square_right = level - s.fall * at_right * at_right, square_left = level - s.fall * at_left * at_left;
        const T right = width * (sqrt(square_right > T(0) ? square_right : T(0)) - s.shear_y * at_right);
        const T left = width * (-sqrt(square_left > T(0) ? square_left : T(0)) - s.shear_y * at_left);
        const Span columns = clipped_span(s.x + left, s.x + right, 0, grid.width - 1);
        if (columns.begin <= columns.end) visit(row, columns.begin / constants::TILE, columns.end / constants::TILE);
    }
}
