#include "cpu_state.h"

namespace {

constexpr int TILE = constants::TILE;
// Gaussians of one frame whose camera gradients are summed before they are added to the others': fixed, so that the
// order of summation does not depend on the threads.
constexpr int64_t BLOCK = 256;

// Per-lane sums over the rows of a strip; they meet the lanes' dx only at the end.
template <typename T>
struct LaneSums {
    Lanes<T> g{}, y{}, yy{}, red{}, green{}, blue{}, screen{}, screen_y{};

    void add_to(SplatGradient<T>& sum, Lanes<T> dx) const {
        const Lanes<T> x = dx * g;
        sum.g += sum_lanes<T>(g), sum.x += sum_lanes<T>(x), sum.y += sum_lanes<T>(y);
        sum.xx += sum_lanes<T>(dx * x), sum.xy += sum_lanes<T>(dx * y), sum.yy += sum_lanes<T>(yy);
        sum.color[0] += sum_lanes<T>(red), sum.color[1] += sum_lanes<T>(green), sum.color[2] += sum_lanes<T>(blue);
        sum.screen_x += sum_lanes<T>(dx * screen), sum.screen_y += sum_lanes<T>(screen_y);
    }
};

// One tile on its way from front to back.
template <typename T>
struct TileBackward {
    alignas(64) T transmittance[TILE][TILE];
    alignas(64) T behind[TILE][TILE];         // upstream . (everything behind the splat at hand)
    alignas(64) T through_alpha[TILE][TILE];  // the part of `behind` that comes from the alpha output
    alignas(64) T v_color[3][TILE][TILE];

    template <bool WITH_SCREEN>
    void add_row(const Splat<T>& s, Lanes<T> exponent, T dy, int row, int at, LaneSums<T>& sums) {
        using V = Lanes<T>;
        const PixelAlpha<V> alpha = pixel_alpha(exponent);
        V light = load_lanes(transmittance[row] + at), rest = load_lanes(behind[row] + at);
        const V weight = blend(alpha.alpha, light);
        const V red = load_lanes(v_color[0][row] + at), green = load_lanes(v_color[1][row] + at);
        const V blue = load_lanes(v_color[2][row] + at);
        const V v_dot_color = red * s.color[0] + green * s.color[1] + blue * s.color[2];
        const V alpha_part = WITH_SCREEN ? load_lanes(through_alpha[row] + at) : V{};
        const PixelGradient<V> v = blend_backward(alpha, weight, v_dot_color, alpha_part, rest);
        store_lanes(transmittance[row] + at, light);
        store_lanes(behind[row] + at, rest);
        const V v_dy = v.full * dy;
        sums.g += v.full, sums.y += v_dy, sums.yy += v_dy * dy;
        sums.red += weight * red, sums.green += weight * green, sums.blue += weight * blue;
        if (WITH_SCREEN) sums.screen += v.without_alpha, sums.screen_y += v.without_alpha * dy;
    }

    template <bool WITH_SCREEN>
    SplatGradient<T> add(const Splat<T>& s, const TileRect& rect, Lanes<T> lane_index) {
        const Ellipse<T> ellipse(s);
        SplatGradient<T> sum{};
        for (int strip = 0; strip < TILE / LANES<T>; ++strip) {
            const StripSplat<T> part(s, ellipse, rect, strip, lane_index);
            if (part.rows.begin > part.rows.end) continue;
            LaneSums<T> sums;
            for (int row = part.rows.begin; row <= part.rows.end; ++row) {
                const T dy = T(rect.top + row) - s.y;
                add_row<WITH_SCREEN>(s, part.exponent(s, dy), dy, row, strip * LANES<T>, sums);
            }
            sums.add_to(sum, part.dx);
        }
        return sum;
    }
};

template <typename T>
class Backward {
  public:
    Backward(const DgrScene& scene, const CpuState<T>& state, const DgrUpstream& upstream, const DgrGradients& out)
        : scene_(scene),
          state_(state),
          upstream_(upstream),
          out_(out),
          grid_(scene.width, scene.height),
          area_(size_t(scene.width) * scene.height),
          threads_(thread_count(scene.threads)),
          slots_(state.entries.size()),
          // Without an upstream gradient of alpha the two screen gradients are the same.
          with_screen_((out.means2d || out.grad_sum) && upstream.v_alpha) {}

    void run() {
        const int64_t tiles = int64_t(scene_.batch) * grid_.tiles();
        v_background_ = Buffer<double>(3 * tiles);
        parallel_for_dynamic(tiles, threads_, [&](int64_t tile) { render_tile(tile); });
        if (out_.background && scene_.background_kind != BACKGROUND_IMAGE) reduce_background();
        const int64_t blocks = (scene_.count + BLOCK - 1) / BLOCK;
        Buffer<CameraGradient<double>> cameras(scene_.batch * blocks);
        parallel_for(scene_.batch * blocks, 4, threads_, [&](int64_t i) {
            cameras[i] =
                gaussians(i / blocks, i % blocks * BLOCK, std::min<int64_t>(scene_.count, (i % blocks + 1) * BLOCK));
        });
        for (int64_t frame = 0; frame < scene_.batch; ++frame)
            store_camera(frame, cameras.data() + frame * blocks, blocks);
        if (out_.grad_sum) parallel_for(scene_.count, BLOCK, threads_, [&](int64_t i) { add_statistics(i); });
    }

  private:
    void load_tile(const TileRect& rect, int64_t tile, TileBackward<T>& pixels) {
        double v_background[3] = {0, 0, 0};
        const T *v_image = static_cast<const T*>(upstream_.v_image),
                *v_alpha = static_cast<const T*>(upstream_.v_alpha);
        const T* image = static_cast<const T*>(upstream_.image);
        T* v_background_image = scene_.background_kind == BACKGROUND_IMAGE ? static_cast<T*>(out_.background) : nullptr;
        for (int row = 0; row < TILE; ++row) {
            for (int i = 0; i < TILE; ++i) {
                const bool inside = row < rect.rows && i < rect.columns;
                const size_t pixel = inside ? size_t(rect.top + row) * grid_.width + rect.left + i : 0;
                const T light = inside ? state_.transmittance[rect.frame * area_ + pixel] : T(0);
                pixels.transmittance[row][i] = inside ? T(1) : T(-1);
                pixels.through_alpha[row][i] = inside && v_alpha ? -v_alpha[rect.frame * area_ + pixel] * light : T(0);
                pixels.behind[row][i] = pixels.through_alpha[row][i];
                for (int c = 0; c < 3; ++c) {
                    const size_t at = (3 * rect.frame + c) * area_ + pixel;
                    const T v = inside && v_image ? v_image[at] : T(0);
                    pixels.v_color[c][row][i] = v;
                    if (!inside) continue;
                    pixels.behind[row][i] += v * image[at];
                    v_background[c] += v * light;
                    if (v_background_image) v_background_image[at] = v * light;
                }
            }
        }
        std::copy(v_background, v_background + 3, v_background_.data() + 3 * tile);
    }

    void render_tile(int64_t tile) {
        const TileRect rect = tile_rect(grid_, tile);
        const Lanes<T> lane_index = lane_indices<T>();
        TileBackward<T> pixels;
        load_tile(rect, tile, pixels);
        const uint32_t begin = state_.tile_begin[tile], end = state_.tile_begin[tile + 1];
        const uint32_t blended = begin + state_.blended[tile];
        for (uint32_t i = begin; i < blended; ++i) {
            const TileEntry entry = state_.entries[i];
            const Splat<T>& s = state_.splats[entry.gaussian];
            slots_[entry.slot] = with_screen_ ? pixels.template add<true>(s, rect, lane_index)
                                              : pixels.template add<false>(s, rect, lane_index);
        }
        for (uint32_t i = blended; i < end; ++i) slots_[state_.entries[i].slot] = SplatGradient<T>{};
    }

    // Sums the background's gradient tile by tile, and over the frames if they share one colour.
    void reduce_background() const {
        T* out = static_cast<T*>(out_.background);
        const int64_t tiles = grid_.tiles(), frames = scene_.batch;
        const bool per_frame = scene_.background_kind == BACKGROUND_COLOR_PER_FRAME;
        for (int64_t group = 0; group < (per_frame ? frames : 1); ++group) {
            const int64_t begin = per_frame ? group * tiles : 0, end = per_frame ? begin + tiles : frames * tiles;
            for (int c = 0; c < 3; ++c) {
                double sum = 0;
                for (int64_t tile = begin; tile < end; ++tile) sum += v_background_[3 * tile + c];
                out[3 * group + c] = static_cast<T>(sum);
            }
        }
    }

    SplatGradient<T> sum_slots(size_t i) const {
        SplatGradient<T> sum{};
        for (uint32_t slot = state_.slots[i]; slot < state_.slots[i + 1]; ++slot) {
            const SplatGradient<T>& v = slots_[slot];
            sum.g += v.g, sum.x += v.x, sum.y += v.y, sum.xx += v.xx, sum.xy += v.xy, sum.yy += v.yy;
            for (int c = 0; c < 3; ++c) sum.color[c] += v.color[c];
            sum.screen_x += v.screen_x, sum.screen_y += v.screen_y;
        }
        if (!with_screen_) sum.screen_x = sum.x, sum.screen_y = sum.y;
        return sum;
    }

    // Gradients of the Gaussians begin .. end-1 of a frame; returns their part of the camera's.
    CameraGradient<double> gaussians(int64_t frame, int64_t begin, int64_t end) {
        const Camera<T> camera = load_frame_camera<T>(scene_, frame);
        CameraGradient<T> v_camera{};
        for (int64_t n = begin; n < end; ++n) {
            const size_t i = frame * scene_.count + n;
            GaussianGradient<T> v{};
            SplatGradient<T> sum{};
            if (state_.slots[i] != state_.slots[i + 1]) {
                sum = sum_slots(i);
                const Gaussian<T> gaussian = load_gaussian<T>(scene_, i);
                const Projection<T> projection = project(camera, gaussian);
                v = project_backward(camera, gaussian, projection, sum, v_camera);
                const Conic<T> q = conic_of(projection);
                const T x = sum.screen_x, y = sum.screen_y;
                sum.screen_x = (q.xx * x + q.xy * y) * T(0.5) * scene_.width;
                sum.screen_y = (q.xy * x + q.yy * y) * T(0.5) * scene_.height;
            }
            store(i, v, sum);
        }
        return to_double(v_camera);
    }

    void store(size_t i, const GaussianGradient<T>& v, const SplatGradient<T>& sum) {
        store3(static_cast<T*>(out_.means) + 3 * i, v.mean);
        store_quat(static_cast<T*>(out_.quats) + 4 * i, v.quat);
        store3(static_cast<T*>(out_.scales) + 3 * i, v.scale);
        static_cast<T*>(out_.opacities)[i] = v.opacity;
        std::copy(sum.color, sum.color + 3, static_cast<T*>(out_.colors) + 3 * i);
        if (!out_.means2d) return;
        static_cast<T*>(out_.means2d)[2 * i] = sum.screen_x;
        static_cast<T*>(out_.means2d)[2 * i + 1] = sum.screen_y;
    }

    static Vec3<double> to_double(Vec3<T> a) { return {double(a.x), double(a.y), double(a.z)}; }

    static CameraGradient<double> to_double(const CameraGradient<T>& v) {
        return {{{to_double(v.R.row[0]), to_double(v.R.row[1]), to_double(v.R.row[2])}},
                to_double(v.t),
                to_double(v.k0),
                to_double(v.k1)};
    }

    void store_camera(int64_t frame, const CameraGradient<double>* parts, int64_t count) {
        CameraGradient<double> sum{};
        for (int64_t i = 0; i < count; ++i) {
            sum.R = sum.R + parts[i].R;
            sum.t += parts[i].t, sum.k0 += parts[i].k0, sum.k1 += parts[i].k1;
        }
        if (!out_.R) return;
        T *R = static_cast<T*>(out_.R) + 9 * frame, *t = static_cast<T*>(out_.t) + 3 * frame;
        T* K = static_cast<T*>(out_.K) + 9 * frame;
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) R[3 * i + j] = static_cast<T>(sum.R(i, j));
            t[i] = static_cast<T>(sum.t[i]);
            K[i] = static_cast<T>(sum.k0[i]);
            K[3 + i] = static_cast<T>(sum.k1[i]);
            K[6 + i] = T(0);  // the third row is (0, 0, 1) by definition
        }
    }

    void add_statistics(int64_t n) {
        const T* means2d = static_cast<const T*>(out_.means2d);
        for (int64_t frame = 0; frame < scene_.batch; ++frame) {
            const size_t i = frame * scene_.count + n;
            const int32_t radius = upstream_.radii[i];
            if (radius <= 0) continue;
            out_.grad_sum[n] += static_cast<float>(std::hypot(means2d[2 * i], means2d[2 * i + 1]));
            out_.count[n] += 1.0f;
            out_.max_radius[n] = std::max(out_.max_radius[n], static_cast<float>(radius));
        }
    }

    const DgrScene& scene_;
    const CpuState<T>& state_;
    const DgrUpstream& upstream_;
    const DgrGradients& out_;
    const TileGrid grid_;
    const size_t area_;
    const int threads_;
    Buffer<SplatGradient<T>> slots_;
    Buffer<double> v_background_;
    const bool with_screen_;
};

}  // namespace

template <typename T>
void cpu_backward(const DgrScene& scene, const CpuState<T>& state, const DgrUpstream& upstream,
                  const DgrGradients& out) {
    Backward<T>(scene, state, upstream, out).run();
}

template void cpu_backward<float>(const DgrScene&, const CpuState<float>&, const DgrUpstream&, const DgrGradients&);
template void cpu_backward<double>(const DgrScene&, const CpuState<double>&, const DgrUpstream&, const DgrGradients&);
