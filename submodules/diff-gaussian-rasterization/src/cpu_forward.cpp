#include "cpu_bin.h"

namespace {

constexpr int TILE = constants::TILE;
// Splats between two looks at whether every pixel of the tile has stopped.
constexpr uint32_t STOP_CHECK = 8;

template <typename T>
struct TilePixels {
    alignas(64) T transmittance[TILE][TILE];
    alignas(64) T color[3][TILE][TILE];

    explicit TilePixels(const TileRect& rect) : color{} {
        for (int row = 0; row < TILE; ++row) {
            // Lanes outside the picture start stopped, so that they never hold a tile up.
            for (int i = 0; i < TILE; ++i) transmittance[row][i] = row < rect.rows && i < rect.columns ? T(1) : T(-1);
        }
    }

    bool all_stopped() const {
        Lanes<T> most = load_lanes(transmittance[0]);
        for (int i = LANES<T>; i < TILE * TILE; i += LANES<T>) {
            const Lanes<T> other = load_lanes(transmittance[0] + i);
            most = select(most > other, most, other);
        }
        for (int i = 0; i < LANES<T>; ++i) {
            if (most[i] > T(0)) return false;
        }
        return true;
    }

    void add(const Splat<T>& s, const TileRect& rect, Lanes<T> lane_index) {
        using V = Lanes<T>;
        const Ellipse<T> ellipse(s);
        for (int strip = 0; strip < TILE / LANES<T>; ++strip) {
            const StripSplat<T> part(s, ellipse, rect, strip, lane_index);
            for (int row = part.rows.begin; row <= part.rows.end; ++row) {
                const int at = strip * LANES<T>;
                V light = load_lanes(transmittance[row] + at);
                const V weight = blend(pixel_alpha(part.exponent(s, T(rect.top + row) - s.y)).alpha, light);
                store_lanes(transmittance[row] + at, light);
                for (int c = 0; c < 3; ++c) {
                    store_lanes(color[c][row] + at, load_lanes(color[c][row] + at) + weight * s.color[c]);
                }
            }
        }
    }
};

template <typename T>
class TileRenderer {
  public:
    TileRenderer(const DgrScene& scene, const DgrPicture& picture, CpuState<T>& state)
        : scene_(scene), picture_(picture), state_(state), grid_(scene.width, scene.height) {}

    void operator()(int64_t tile) const {
        const TileRect rect = tile_rect(grid_, tile);
        const Lanes<T> lane_index = lane_indices<T>();
        TilePixels<T> pixels(rect);
        const uint32_t begin = state_.tile_begin[tile], end = state_.tile_begin[tile + 1];
        uint32_t i = begin;
        for (; i < end; ++i) {
            if ((i - begin) % STOP_CHECK == 0 && pixels.all_stopped()) break;
            pixels.add(state_.splats[state_.entries[i].gaussian], rect, lane_index);
        }
        state_.blended[tile] = i - begin;
        store(rect, pixels);
    }

  private:
    void store(const TileRect& rect, const TilePixels<T>& pixels) const {
        const size_t area = size_t(grid_.width) * grid_.height;
        T *image = static_cast<T*>(picture_.image), *alpha = static_cast<T*>(picture_.alpha);
        for (int row = 0; row < rect.rows; ++row) {
            const size_t first = size_t(rect.top + row) * grid_.width + rect.left;
            for (int i = 0; i < rect.columns; ++i) {
                const T light = std::abs(pixels.transmittance[row][i]);
                state_.transmittance[rect.frame * area + first + i] = light;
                alpha[rect.frame * area + first + i] = T(1) - light;
                for (int c = 0; c < 3; ++c) {
                    const T behind = light * background_at<T>(scene_, rect.frame, c, first + i);
                    image[(3 * rect.frame + c) * area + first + i] = pixels.color[c][row][i] + behind;
                }
            }
        }
    }

    const DgrScene& scene_;
    const DgrPicture& picture_;
    CpuState<T>& state_;
    const TileGrid grid_;
};

}  // namespace

template <typename T>
void cpu_forward(const DgrScene& scene, const DgrPicture& picture, CpuState<T>& state) {
    const int threads = thread_count(scene.threads);
    Binner<T>(scene, picture, state, threads).run();
    const int64_t tiles = int64_t(scene.batch) * TileGrid(scene.width, scene.height).tiles();
    state.blended = Buffer<uint32_t>(tiles);
    state.transmittance = Buffer<T>(size_t(scene.batch) * scene.width * scene.height);
    parallel_for_dynamic(tiles, threads, TileRenderer<T>(scene, picture, state));
}

template void cpu_forward<float>(const DgrScene&, const DgrPicture&, CpuState<float>&);
template void cpu_forward<double>(const DgrScene&, const DgrPicture&, CpuState<double>&);
