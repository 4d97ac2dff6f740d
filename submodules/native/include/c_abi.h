// The calling convention of the native libraries: extern "C", 0 for success, the message in <prefix>_last_error().
#pragma once

#include <exception>
#include <string>

#define NATIVE_EXPORT extern "C" __attribute__((visibility("default")))

namespace c_abi {
inline std::string& last_error() {
    thread_local std::string message;
    return message;
}

// Runs body; an exception becomes status 1 and its text the last error of this thread.
template <typename Body>
int guarded(Body body) {
    try {
        body();
        return 0;
    } catch (const std::exception& error) {
        last_error() = error.what();
    } catch (...) {
        last_error() = "unknown exception";
    }
    return 1;
}
}  // namespace c_abi
