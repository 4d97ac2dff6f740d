// An uninitialised array: std::vector would clear megabytes that are about to be overwritten.
#pragma once

#include <cstddef>
#include <memory>

template <typename T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t size) : size_(size), data_(new T[size]) {}
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    size_t size() const { return size_; }

  private:
    size_t size_ = 0;
    std::unique_ptr<T[]> data_;
};
