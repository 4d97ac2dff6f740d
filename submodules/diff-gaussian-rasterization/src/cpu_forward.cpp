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
        T most = T(-1);
        for (int row = 0; row < TILE; ++row) {
            for (int i = 0; i < TILE; ++i) most = transmittance[row][i] > most ? transmittance[row][i] : most;
        }
        return most < T(0);
    }

    void blend_row(int row, const T* shear, T shift, T top, const T* splat_color) {
        T* __restrict__ light = transmittance[row];
        T *__restrict__ red = color[0][row], *__restrict__ green = color[1][row], *__restrict__ blue = color[2][row];
        for (int i = 0; i < TILE; ++i) {
            const T slope = shear[i] + shift;
            const T weight = blend(pixel_alpha(top - slope * slope).alpha, light[i]);
            red[i] += weight * splat_color[0];
            green[i] += weight * splat_color[1];
            blue[i] += weight * splat_color[2];
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
        TilePixels<T> pixels(rect);
        const uint32_t begin = state_.tile_begin[tile], end = state_.tile_begin[tile + 1];
        uint32_t i = begin;
        for (; i < end; ++i) {
            if ((i - begin) % STOP_CHECK == 0 && pixels.all_stopped()) break;
            const Splat<T>& s = state_.splats[state_.entries[i].gaussian];
            const TileSplat<T> in_tile(s, rect);
            for (int row = in_tile.first_row; row <= in_tile.last_row; ++row) {
                const T dy = T(rect.top + row) - s.y;
                pixels.blend_row(row, in_tile.shear, s.shear_y * dy, s.peak - s.fall * dy * dy, s.color);
            }
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
