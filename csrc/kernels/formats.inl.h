// Float formats: their size in memory, and loads and stores of whole and part vectors. Include after a
// simd_*.h.
#pragma once

#include <cstddef>

namespace pygrok {
namespace {

struct FormatF32 {
  static constexpr size_t kBytes = 4;
  static F32 Read(const std::byte* p) { return Load(p); }
  static F32 ReadN(const std::byte* p, size_t n) { return LoadN(p, n); }
  static void WriteN(std::byte* p, F32 x, size_t n) {
    float lanes[kLanes];
    Store(lanes, x);
    __builtin_memcpy(p, lanes, n * sizeof(float));
  }
};
struct FormatF16 {
  static constexpr size_t kBytes = 2;
  static F32 Read(const std::byte* p) { return LoadF16(p); }
  static F32 ReadN(const std::byte* p, size_t n) { return LoadF16N(p, n); }
  static void WriteN(std::byte* p, F32 x, size_t n) { StoreF16N(p, x, n); }
};
struct FormatBf16 {
  static constexpr size_t kBytes = 2;
  static F32 Read(const std::byte* p) { return LoadBf16(p); }
  static F32 ReadN(const std::byte* p, size_t n) { return LoadBf16N(p, n); }
  static void WriteN(std::byte* p, F32 x, size_t n) { StoreBf16N(p, x, n); }
};

inline size_t Fewer(size_t a, size_t b) { return a < b ? a : b; }

template <class Format>
void ReadFloats(const std::byte* x, size_t n, float* out) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Format::Read(x + i * Format::kBytes));
  if (i < n) StoreN(out + i, Format::ReadN(x + i * Format::kBytes, n - i), n - i);
}

template <class Format>
void WriteFloats(const float* x, size_t n, std::byte* out) {
  for (size_t i = 0; i < n; i += kLanes) {
    const size_t lanes = Fewer(kLanes, n - i);
    Format::WriteN(out + i * Format::kBytes, lanes == kLanes ? Load(x + i) : LoadN(x + i, lanes), lanes);
  }
}

}  // namespace
}  // namespace pygrok
