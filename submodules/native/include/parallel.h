// Loops over several threads. What a loop computes must not depend on which thread runs which index.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// `requested` if positive, else the environment's NATIVE_THREADS, else the number of cores.
inline int thread_count(int requested) {
    if (requested > 0) return requested;
    const char* text = std::getenv("NATIVE_THREADS");
    const int wanted = text ? std::atoi(text) : 0;
    return wanted > 0 ? wanted : std::max(1u, std::thread::hardware_concurrency());
}

// Calls body(thread) for 0 .. threads-1, each on a thread of its own, the last ones on the caller's: it does the work of
// every thread that the system refuses to start. Rethrows the first exception.
template <typename Body>
void run_threads(int threads, Body body) {
    std::exception_ptr failure;
    std::mutex failure_lock;
    auto guarded = [&](int thread) {
        try {
            body(thread);
        } catch (...) {
            std::lock_guard<std::mutex> lock(failure_lock);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> helpers;
    helpers.reserve(threads);
    try {
        for (int thread = 0; thread + 1 < threads; ++thread) helpers.emplace_back(guarded, thread);
    } catch (const std::exception&) {  // a limit on threads or memory; letting it out would end the process
    }
    for (int thread = static_cast<int>(helpers.size()); thread < threads; ++thread) guarded(thread);
    for (auto& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

// body(begin, end, chunk): one contiguous chunk of 0 .. count-1 per thread, of `grain` indices at least, so that small
// loops do not pay for starting threads.
template <typename Body>
void parallel_chunks(int64_t count, int64_t grain, int threads, Body body) {
    const int chunks =
        static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count / std::max<int64_t>(grain, 1))));
    run_threads(chunks, [&](int chunk) { body(count * chunk / chunks, count * (chunk + 1) / chunks, chunk); });
}

// body(i) for i in 0 .. count-1, in static contiguous chunks.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, int threads, Body body) {
    parallel_chunks(count, grain, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) body(i);
    });
}

// body(i) for i in 0 .. count-1, each index handed to the next idle thread: for items of very unequal cost.
template <typename Body>
void parallel_for_dynamic(int64_t count, int threads, Body body) {
    std::atomic<int64_t> next{0};
    run_threads(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count))), [&](int) {
        for (int64_t i = next++; i < count; i = next++) body(i);
    });
}
