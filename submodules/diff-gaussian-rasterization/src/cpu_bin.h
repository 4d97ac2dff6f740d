// From Gaussians to lists of splats, one per tile, front to back.
#pragma once

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu_state.h"
#include "depth_order.h"

template <typename T>
struct DepthKey;
template <>
struct DepthKey<float> {
    using type = uint32_t;
};
template <>
struct DepthKey<double> {
    using type = uint64_t;
};

template <typename T>
class Binner {
  public:
    Binner(const DgrScene& scene, const DgrPicture& picture, CpuState<T>& state, int threads)
        : scene_(scene),
          picture_(picture),
          state_(state),
          grid_(scene.width, scene.height),
          threads_(threads),
          total_(int64_t(scene.batch) * scene.count) {}

    void run() {
        if (total_ > UINT32_MAX) throw std::runtime_error("more than 2^32 Gaussians in a batch of frames");
        project_all();
        number_slots();
        place_slots();
        std::vector<std::vector<uint32_t>> orders(scene_.batch);
        parallel_for_dynamic(scene_.batch, threads_, [&](int64_t frame) { orders[frame] = depth_order(frame); });
        fill_tiles(orders);
    }

  private:
    using Key = typename DepthKey<T>::type;
    // Gaussians a thread must have before another one pays.
    static constexpr int64_t GRAIN = 2048;

    // Splats, radii, depths, and how many slots each Gaussian needs.
    void project_all() {
        state_.splats = Buffer<Splat<T>>(total_);
        state_.slots = Buffer<uint32_t>(total_ + 1);
        depths_ = Buffer<T>(total_);
        parallel_for(total_, GRAIN, threads_, [&](int64_t i) { project_one(i); });
    }

    // The first slot of each Gaussian, from the counts.
    void number_slots() {
        uint64_t begin = 0;
        for (int64_t i = 0; i < total_; ++i) begin += state_.slots[i];
        if (begin > UINT32_MAX) {
            throw std::runtime_error(std::to_string(begin) + " pairs of a Gaussian and a tile, wanted at most 2^32 - 1: "
                                     "draw fewer frames at a time, smaller pictures or smaller Gaussians");
        }
        begin = 0;
        for (int64_t i = 0; i < total_; ++i) begin += std::exchange(state_.slots[i], static_cast<uint32_t>(begin));
        state_.slots[total_] = static_cast<uint32_t>(begin);
    }

    // The tile of every slot.
    void place_slots() {
        slot_tiles_ = Buffer<uint32_t>(state_.slots[total_]);
        parallel_for(total_, GRAIN, threads_, [&](int64_t i) {
            if (state_.slots[i] == state_.slots[i + 1]) return;
            uint32_t* out = slot_tiles_.data() + state_.slots[i];
            const uint32_t first_tile = static_cast<uint32_t>(i / scene_.count * grid_.tiles());
            visit_tiles(state_.splats[i], grid_, [&](int row, int first, int last) {
                for (int column = first; column <= last; ++column) *out++ = first_tile + row * grid_.columns + column;
            });
        });
    }

    void project_one(int64_t i) {
        const int64_t frame = i / scene_.count;
        const Camera<T> camera = load_frame_camera<T>(scene_, frame);
        const Gaussian<T> gaussian = load_gaussian<T>(scene_, i);
        const Projection<T> projection = project(camera, gaussian);
        uint32_t count = 0;
        picture_.radii[i] = 0;
        if (make_splat(camera, gaussian, projection, state_.splats[i])) {
            picture_.radii[i] = splat_radius(camera, projection, state_.splats[i]);
            visit_tiles(state_.splats[i], grid_, [&](int, int first, int last) { count += last - first + 1; });
        }
        state_.slots[i] = count;
        depths_[i] = projection.point.z;
    }

    // The frame's visible Gaussians, front to back.
    std::vector<uint32_t> depth_order(int64_t frame) const {
        std::vector<DepthItem<Key>> items;
        items.reserve(scene_.count);
        for (int64_t i = frame * scene_.count; i < (frame + 1) * scene_.count; ++i) {
            if (state_.slots[i] == state_.slots[i + 1]) continue;
            DepthItem<Key> item{0, static_cast<uint32_t>(i)};
            std::memcpy(&item.key, &depths_[i], sizeof(T));
            items.push_back(item);
        }
        sort_by_depth(items);
        std::vector<uint32_t> order(items.size());
        std::transform(items.begin(), items.end(), order.begin(), [](const auto& item) { return item.gaussian; });
        return order;
    }

    // Stable counting sort of the depth-ordered slots into tiles, in parallel over runs of Gaussians.
    void fill_tiles(const std::vector<std::vector<uint32_t>>& orders) {
        std::vector<uint32_t> order;
        for (const auto& frame_order : orders) order.insert(order.end(), frame_order.begin(), frame_order.end());
        const size_t tiles = size_t(scene_.batch) * grid_.tiles();
        std::vector<std::vector<uint32_t>> cursors(threads_, std::vector<uint32_t>(tiles, 0));
        const auto each_slot = [&](auto visit) {
            parallel_chunks(order.size(), GRAIN, threads_, [&](int64_t begin, int64_t end, int chunk) {
                for (int64_t i = begin; i < end; ++i) {
                    const uint32_t gaussian = order[i];
                    for (uint32_t slot = state_.slots[gaussian]; slot < state_.slots[gaussian + 1]; ++slot) {
                        visit(cursors[chunk][slot_tiles_[slot]], gaussian, slot);
                    }
                }
            });
        };
        each_slot([](uint32_t& cursor, uint32_t, uint32_t) { ++cursor; });
        state_.tile_begin = Buffer<uint32_t>(tiles + 1);
        uint32_t begin = 0;
        for (size_t tile = 0; tile < tiles; ++tile) {
            state_.tile_begin[tile] = begin;
            for (auto& cursor : cursors) begin += std::exchange(cursor[tile], begin);
        }
        state_.tile_begin[tiles] = begin;
        state_.entries = Buffer<TileEntry>(begin);
        each_slot(
            [&](uint32_t& cursor, uint32_t gaussian, uint32_t slot) { state_.entries[cursor++] = {gaussian, slot}; });
    }

    const DgrScene& scene_;
    const DgrPicture& picture_;
    CpuState<T>& state_;
    const TileGrid grid_;
    const int threads_;
    const int64_t total_;
    Buffer<T> depths_;
    Buffer<uint32_t> slot_tiles_;
};
