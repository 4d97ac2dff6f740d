// The CPU library's exported functions.
#include "c_abi.h"
#include "cpu_state.h"
#include "mirrors.h"

NATIVE_EXPORT const char* dgr_last_error() {
    return c_abi::last_error().c_str();
}

// What Python must agree with; see layout.h.
NATIVE_EXPORT const char* dgr_layout() {
    static const Layout layout = mirrored_layout();
    return layout.text().c_str();
}

// out: tile, near plane, dilation, alpha min, alpha max, transmittance min, Jacobian limit, radius sigmas, discriminant
// min; the order is that of RasterConstants in _library.py.
NATIVE_EXPORT void dgr_constants(double* out) {
    using namespace constants;
    const double values[] = {TILE,           NEAR_PLANE,    DILATION,        ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN,
                             JACOBIAN_LIMIT, RADIUS_SIGMAS, DISCRIMINANT_MIN};
    std::copy(std::begin(values), std::end(values), out);
}

// Fills the picture; *state receives what the backward pass needs, to be released by dgr_free_f32 or _f64.
NATIVE_EXPORT int dgr_forward_f32(const DgrScene* scene, const DgrPicture* picture, void** state) {
    return c_abi::guarded([&] {
        auto result = std::make_unique<CpuState<float>>();
        cpu_forward(*scene, *picture, *result);
        *state = result.release();
    });
}

NATIVE_EXPORT int dgr_forward_f64(const DgrScene* scene, const DgrPicture* picture, void** state) {
    return c_abi::guarded([&] {
        auto result = std::make_unique<CpuState<double>>();
        cpu_forward(*scene, *picture, *result);
        *state = result.release();
    });
}

NATIVE_EXPORT int dgr_backward_f32(const DgrScene* scene, void* state, const DgrUpstream* upstream,
                                   const DgrGradients* out) {
    return c_abi::guarded([&] { cpu_backward(*scene, *static_cast<CpuState<float>*>(state), *upstream, *out); });
}

NATIVE_EXPORT int dgr_backward_f64(const DgrScene* scene, void* state, const DgrUpstream* upstream,
                                   const DgrGradients* out) {
    return c_abi::guarded([&] { cpu_backward(*scene, *static_cast<CpuState<double>*>(state), *upstream, *out); });
}

NATIVE_EXPORT void dgr_free_f32(void* state) {
    delete static_cast<CpuState<float>*>(state);
}
NATIVE_EXPORT void dgr_free_f64(void* state) {
    delete static_cast<CpuState<double>*>(state);
}
