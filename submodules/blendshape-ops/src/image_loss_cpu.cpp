// L1 + D-SSIM + alpha loss and its gradient on the CPU. The image is cut into bands of a fixed height, whatever the
// number of threads, and the bands' sums are added in order.
#include <algorithm>
#include <cmath>
#include <vector>

#include "c_abi.h"
#include "parallel.h"
#include "ssim.h"

namespace {

constexpr int64_t BAND = 32;

// One band of one channel plane.
struct Band {
    int64_t batch, channel, plane, begin, end;
};

// Rows of several maps, blurred along x, for a band and the SSIM_RADIUS rows beyond each end (zero outside the image).
template <typename T, int MAPS>
class BlurredRows {
public:
    BlurredRows(const ImageLossArgs<T>& a, const Band& band)
        : a_(a), first_(band.begin - SSIM_RADIUS), rows_(band.end - band.begin + 2 * SSIM_RADIUS),
          padded_(a.width + 2 * SSIM_RADIUS), source_(MAPS * padded_), blurred_(MAPS * rows_ * a.width) {}

    // fill(row, maps): writes the `width` values of each map of an image row to maps[i].
    template <typename Fill>
    void build(Fill fill) {
        T* maps[MAPS];
        for (int i = 0; i < MAPS; ++i) maps[i] = source_.data() + i * padded_ + SSIM_RADIUS;
        for (int64_t r = 0; r < rows_; ++r) {
            const int64_t row = first_ + r;
            if (row < 0 || row >= a_.height) continue;
            fill(row, maps);
            for (int i = 0; i < MAPS; ++i) blur_row(source_.data() + i * padded_, line(i, r));
        }
    }

    // out[x] = map i blurred along both axes at image row `row`.
    void blur_column(int i, int64_t row, T* __restrict out) {
        const T* w = a_.window;
        const T* __restrict in = line(i, row - SSIM_RADIUS - first_);
        const int64_t width = a_.width;
        for (int64_t x = 0; x < width; ++x) {
            T sum = 0;
            for (int k = 0; k < SSIM_TAPS; ++k) sum += w[k] * in[k * width + x];
            out[x] = sum;
        }
    }

private:
    T* line(int i, int64_t r) { return blurred_.data() + (i * rows_ + r) * a_.width; }

    void blur_row(const T* __restrict in, T* __restrict out) {
        const T* w = a_.window;
        for (int64_t x = 0; x < a_.width; ++x) {
            T sum = 0;
            for (int k = 0; k < SSIM_TAPS; ++k) sum += w[k] * in[x + k];
            out[x] = sum;
        }
    }

    const ImageLossArgs<T>& a_;
    int64_t first_, rows_, padded_;
    std::vector<T> source_, blurred_;
};

template <typename T>
void wanted_row(const ImageLossArgs<T>& a, const Band& band, int64_t row, T* __restrict out) {
    const uint8_t* pixels = a.target + (band.batch * a.height + row) * a.width * 4;
    const T background = a.background ? a.background[band.channel] : T(0);
    for (int64_t x = 0; x < a.width; ++x) {
        out[x] = wanted_color(pixels + 4 * x, int(band.channel), a.composite != 0, background);
    }
}

template <typename T>
int64_t band_count(const ImageLossArgs<T>& a) {
    return a.batch * 3 * ((a.height + BAND - 1) / BAND);
}

struct Sums {
    double l1 = 0, ssim = 0, alpha = 0;
};

template <typename T>
void alpha_band(const ImageLossArgs<T>& a, const Band& band, Sums& sums) {
    const int64_t offset = band.batch * a.height * a.width;
    for (int64_t i = offset + band.begin * a.width; i < offset + band.end * a.width; ++i) {
        const T difference = a.alpha[i] - T(a.target[4 * i + 3]) / 255;
        sums.alpha += double(difference) * double(difference);
    }
}

template <typename T>
void differentiate_alpha(const ImageLossArgs<T>& a, const Band& band) {
    const T scale = *a.v_total * T(a.alpha_weight * 2 / double(a.batch * a.height * a.width));
    const int64_t offset = band.batch * a.height * a.width;
    for (int64_t i = offset + band.begin * a.width; i < offset + band.end * a.width; ++i) {
        a.v_alpha[i] = scale * (a.alpha[i] - T(a.target[4 * i + 3]) / 255);
    }
}

// Values of a band, and d(sum of SSIM)/d(window means) into scratch where gradients are wanted.
template <typename T>
Sums measure_band(const ImageLossArgs<T>& a, const Band& band) {
    Sums sums;
    const int64_t width = a.width, size = a.batch * 3 * a.height * width;
    const T* image = a.image + band.plane * a.height * width;
    BlurredRows<T, 5> rows(a, band);
    rows.build([&](int64_t row, T** maps) {
        std::copy_n(image + row * width, width, maps[0]);
        wanted_row(a, band, row, maps[1]);
        const bool own = row >= band.begin && row < band.end;
        for (int64_t x = 0; x < width; ++x) {
            const T i = maps[0][x], g = maps[1][x];
            maps[2][x] = i * i;
            maps[3][x] = g * g;
            maps[4][x] = i * g;
        }
        T l1 = 0;  // a row's sum, whose rounding is below 1e-6 of it
        for (int64_t x = 0; own && x < width; ++x) l1 += std::abs(maps[0][x] - maps[1][x]);
        sums.l1 += double(l1);
    });
    std::vector<T> means(9 * width);
    T* m[9];
    for (int i = 0; i < 9; ++i) m[i] = means.data() + i * width;
    for (int64_t row = band.begin; row < band.end; ++row) {
        for (int i = 0; i < 5; ++i) rows.blur_column(i, row, m[i]);
        for (int64_t x = 0; x < width; ++x) {
            const SsimValue<T> s = ssim<T>({m[0][x], m[1][x], m[2][x], m[3][x], m[4][x]}, T(a.c1), T(a.c2));
            m[5][x] = s.value;
            m[6][x] = s.d_i;
            m[7][x] = s.d_ii;
            m[8][x] = s.d_ig;
        }
        for (int64_t x = 0; x < width; ++x) sums.ssim += double(m[5][x]);
        for (int i = 0; a.scratch && i < 3; ++i) {
            std::copy_n(m[6 + i], width, a.scratch + i * size + (band.plane * a.height + row) * width);
        }
    }
    if (band.channel == 0) alpha_band(a, band, sums);
    return sums;
}

// Gradient of the total with respect to a band of the image. The window is symmetric, so the adjoint of a blur with
// zero padding is that blur.
template <typename T>
void differentiate_band(const ImageLossArgs<T>& a, const Band& band) {
    const int64_t width = a.width, size = a.batch * 3 * a.height * width;
    const T l1_scale = *a.v_total * T(a.l1_weight / double(size));
    const T ssim_scale = *a.v_total * T(-a.dssim_weight / double(size));
    BlurredRows<T, 3> rows(a, band);
    rows.build([&](int64_t row, T** maps) {
        for (int i = 0; i < 3; ++i) {
            std::copy_n(a.scratch + i * size + (band.plane * a.height + row) * width, width, maps[i]);
        }
    });
    std::vector<T> lines(4 * width);
    T *d_i = lines.data(), *d_ii = d_i + width, *d_ig = d_ii + width, *wanted = d_ig + width;
    for (int64_t row = band.begin; row < band.end; ++row) {
        rows.blur_column(0, row, d_i);
        rows.blur_column(1, row, d_ii);
        rows.blur_column(2, row, d_ig);
        wanted_row(a, band, row, wanted);
        const int64_t offset = (band.plane * a.height + row) * width;
        for (int64_t x = 0; x < width; ++x) {
            const T i = a.image[offset + x], g = wanted[x];
            a.v_image[offset + x] = l1_scale * sign(i - g) + ssim_scale * (d_i[x] + 2 * i * d_ii[x] + g * d_ig[x]);
        }
    }
}

// body(i, band) for every band of the batch.
template <typename T, typename Body>
void for_each_band(const ImageLossArgs<T>& a, Body body) {
    const int64_t bands = band_count(a) / (3 * a.batch);
    parallel_for_dynamic(band_count(a), thread_count(int(a.threads)), [&](int64_t i) {
        const int64_t plane = i / bands, begin = i % bands * BAND;
        body(i, Band{plane / 3, plane % 3, plane, begin, std::min(begin + BAND, a.height)});
    });
}

template <typename T>
void forward(const ImageLossArgs<T>& a) {
    std::vector<Sums> sums(band_count(a));
    for_each_band(a, [&](int64_t i, const Band& band) { sums[i] = measure_band(a, band); });
    Sums total;
    for (const Sums& part : sums) {
        total.l1 += part.l1;
        total.ssim += part.ssim;
        total.alpha += part.alpha;
    }
    store_terms(a, total.l1, total.ssim, total.alpha);
}

template <typename T>
void backward(const ImageLossArgs<T>& a) {
    for_each_band(a, [&](int64_t, const Band& band) {
        if (a.v_image) differentiate_band(a, band);
        if (a.v_alpha && band.channel == 0) differentiate_alpha(a, band);
    });
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_image_loss_forward_f32(const ImageLossArgs<float>* a) {
    return c_abi::guarded([&] { forward(*a); });
}
NATIVE_EXPORT int blendshape_ops_image_loss_forward_f64(const ImageLossArgs<double>* a) {
    return c_abi::guarded([&] { forward(*a); });
}
NATIVE_EXPORT int blendshape_ops_image_loss_backward_f32(const ImageLossArgs<float>* a) {
    return c_abi::guarded([&] { backward(*a); });
}
NATIVE_EXPORT int blendshape_ops_image_loss_backward_f64(const ImageLossArgs<double>* a) {
    return c_abi::guarded([&] { backward(*a); });
}
