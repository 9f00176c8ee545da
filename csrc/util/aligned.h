// Uninitialized memory on cache-line boundaries, for buffers that SIMD code fills itself.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace pygrok {

inline constexpr size_t kCacheLine = 64;

constexpr size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A fixed number of T, not initialized. Throws std::bad_alloc.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) : size_(size) {
    if (size > (SIZE_MAX - kCacheLine) / sizeof(T)) throw std::bad_alloc();
    if (size == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(kCacheLine, RoundUp(size * sizeof(T), kCacheLine))));
    if (!data_) throw std::bad_alloc();
  }

  T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
};

}  // namespace pygrok
