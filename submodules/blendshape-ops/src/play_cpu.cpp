// What only playing needs, on the CPU: the drive of frames from their codes, and pictures as bytes.
#include "c_abi.h"
#include "parallel.h"
#include "play.h"

namespace {

template <typename T>
void head_motion(const DriveArgs<T>& a, int64_t b, T* features) {
    Mat3<T> turns[JOINTS - 1];
    for (int j = 1; j < JOINTS; ++j) {
        turns[j - 1] = joint_turn(a, b, j);
        store_feature(turns[j - 1], features + 9 * (j - 1));
    }
    T linear[LINEAR_ROWS];
    for (int row = 0; row < LINEAR_ROWS; ++row) linear[row] = a.base[row];
    for (int64_t k = 0; k < a.head_expressions + a.features; ++k) {
        const T x = k < a.head_expressions ? a.expression[b * a.head_expressions + k] : features[k - a.head_expressions];
        for (int row = 0; row < LINEAR_ROWS; ++row) linear[row] += x * a.linear[k * LINEAR_ROWS + row];
    }
    pose_bones(a, b, turns, linear);
    const T share = code_share(a, b);
    for (int64_t k = 0; k < a.expressions; ++k) limit_code(a, b, k, share);
}

template <typename T>
int drive(const DriveArgs<T>* args) {
    return c_abi::guarded([&] {
        const DriveArgs<T>& a = *args;
        const int threads = thread_count(int(a.threads));
        for (int64_t b = 0; b < a.frames; ++b) {
            T features[FEATURES];
            head_motion(a, b, features);
            parallel_for(a.triangles, 1024, threads, [&](int64_t f) {
                for (int quad = 0; quad < TRIANGLE_MAP / 4; ++quad) map_quad(a, b, f, quad);
            });
            parallel_for(3 * a.vertices, 8192, threads, [&](int64_t i) { vertex_offsets(a, b, i, features); });
        }
    });
}

}  // namespace

NATIVE_EXPORT int blendshape_ops_drive_f32(const DriveArgs<float>* a) { return drive(a); }
NATIVE_EXPORT int blendshape_ops_drive_f64(const DriveArgs<double>* a) { return drive(a); }

// image [B,3,area] -> bytes [B,area,3]
NATIVE_EXPORT int blendshape_ops_to_bytes_f32(const float* image, uint8_t* bytes, int64_t frames, int64_t area,
                                              int64_t threads) {
    return c_abi::guarded([&] {
        parallel_for(frames * area, 16384, thread_count(int(threads)), [&](int64_t i) {
            const float* pixel = image + i / area * 3 * area + i % area;
            for (int c = 0; c < 3; ++c) bytes[3 * i + c] = color_byte(pixel[c * area]);
        });
    });
}
