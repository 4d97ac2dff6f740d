// The CUDA library's exported functions: launches only; nothing here waits for the device.
#include "c_abi.h"
#include "cuda_gaussians.cuh"
#include "mirrors.h"

namespace {

dim3 gaussian_grid(const DgrScene& scene) {
    return dim3((scene.count + THREADS - 1) / THREADS, scene.batch);
}

void clear(void* memory, size_t bytes, cudaStream_t stream) {
    if (bytes) check_cuda(cudaMemsetAsync(memory, 0, bytes, stream), "cudaMemsetAsync");
}

void forward(const DgrScene& scene, const DgrPicture& picture, const DgrCudaWork& work, cudaStream_t stream) {
    const TileGrid grid(scene.width, scene.height);
    const int64_t all_tiles = int64_t(scene.batch) * grid.tiles();
    if (all_tiles > INT32_MAX) throw std::invalid_argument("wanted fewer than 2^31 tiles in a batch of pictures");
    if (work.capacity > MAX_CAPACITY) throw std::invalid_argument("capacity: wanted fewer than 2^31 pairs");
    const int tiles = static_cast<int>(all_tiles);
    clear(work.tile_cursor, sizeof(uint32_t) * CURSOR_STEP * tiles, stream);
    if (scene.count)
        launch("project_kernel", project_kernel, gaussian_grid(scene), THREADS, stream, scene, work, picture.radii);
    launch("scan_kernel", scan_kernel, dim3(1), SCAN_THREADS, stream, work, tiles);
    if (scene.count) launch("scatter_kernel", scatter_kernel, gaussian_grid(scene), THREADS, stream, scene, work);
    launch("order_kernel", order_kernel, dim3(1), SCAN_THREADS, stream, work, tiles);
    launch("sort_kernel", sort_kernel, dim3(tiles), THREADS, stream, work);
    launch("render_kernel", render_kernel, dim3(grid.columns, grid.rows, scene.batch), THREADS, stream, scene, work,
           picture);
}

void background_backward(const DgrScene& scene, const DgrCudaWork& work, const DgrUpstream& upstream,
                         const DgrGradients& out, cudaStream_t stream) {
    const size_t area = size_t(scene.width) * scene.height;
    const int numbers = 3 * (scene.background_kind == BACKGROUND_COLOR_PER_FRAME ? scene.batch : 1);
    const bool is_color = scene.background_kind != BACKGROUND_IMAGE;
    if (is_color) clear(work.background, sizeof(double) * numbers, stream);
    const dim3 blocks(static_cast<unsigned>((area + THREADS - 1) / THREADS), scene.batch);
    float* v_background = static_cast<float*>(out.background);
    if (!upstream.v_image) {
        clear(v_background, sizeof(float) * (is_color ? numbers : 3 * area * scene.batch), stream);
        return;
    }
    launch("background_kernel", background_kernel, blocks, THREADS, stream, scene, work,
           static_cast<const float*>(upstream.v_image), v_background);
    if (is_color)
        launch("background_color_kernel", background_color_kernel, dim3(1), THREADS, stream, work, numbers,
               v_background);
}

void backward(const DgrScene& scene, const DgrCudaWork& work, const DgrUpstream& upstream, const DgrGradients& out,
              cudaStream_t stream) {
    const TileGrid grid(scene.width, scene.height);
    const dim3 tiles(grid.columns, grid.rows, scene.batch);
    // Without an upstream gradient of alpha the two screen gradients are the same.
    const bool with_screen = (out.means2d || out.grad_sum) && upstream.v_alpha;
    clear(work.splat_gradients, sizeof(float) * RECORD * scene.batch * scene.count, stream);
    if (out.R) clear(work.camera, sizeof(double) * CAMERA_NUMBERS * scene.batch, stream);
    const auto render = with_screen ? render_backward_kernel<true> : render_backward_kernel<false>;
    launch("render_backward_kernel", render, tiles, THREADS, stream, scene, work, upstream);
    if (scene.count) {
        launch("gaussian_backward_kernel", gaussian_backward_kernel, gaussian_grid(scene), THREADS, stream, scene, work,
               upstream.radii, with_screen, out);
    }
    if (out.R)
        launch("camera_kernel", camera_kernel, dim3((scene.batch + THREADS - 1) / THREADS), THREADS, stream, scene,
               work, out);
    if (out.background) background_backward(scene, work, upstream, out, stream);
}

}  // namespace

NATIVE_EXPORT const char* dgr_last_error() {
    return c_abi::last_error().c_str();
}

// What Python must agree with; see layout.h.
NATIVE_EXPORT const char* dgr_layout() {
    static const Layout layout = mirrored_layout();
    return layout.text().c_str();
}

// `stream` belongs to the current device, which holds all memory.
NATIVE_EXPORT int dgr_cuda_forward(const DgrScene* scene, const DgrPicture* picture, const DgrCudaWork* work,
                                   void* stream) {
    return c_abi::guarded([&] { forward(*scene, *picture, *work, static_cast<cudaStream_t>(stream)); });
}

NATIVE_EXPORT int dgr_cuda_backward(const DgrScene* scene, const DgrCudaWork* work, const DgrUpstream* upstream,
                                    const DgrGradients* out, void* stream) {
    return c_abi::guarded([&] { backward(*scene, *work, *upstream, *out, static_cast<cudaStream_t>(stream)); });
}
