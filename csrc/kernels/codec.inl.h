// Weight types: what each stores, how a row of it becomes floats, and how a tile of it becomes packed bytes
// for the integer matmul. Include after a simd_*.h. A further block type is a struct in blocks.h, a codec
// here and a line in table.inl.h.
#pragma once

#include "kernels/blocks.h"

namespace pygrok {
namespace {

constexpr size_t kGroups = kBlockValues / 4;  // vectors of Bytes that a block of kLanes rows takes

inline float LoadHalf(const void* p) {
  float lanes[kLanes];
  Store(lanes, LoadF16N(p, 1));
  return lanes[0];
}

// A codec of 32-value blocks: `Unpack` turns one block of kLanes rows, the first at `block` and the next ones
// `stride` bytes on, into packed bytes of the kind that `Dot` multiplies.
struct CodecQ4_0 {
  using Block = BlockQ4_0;
  using Dot = DotNibble;
  static void Unpack(const std::byte* block, size_t stride, Bytes out[kGroups]) {
    Bytes pairs[4];
    LoadRows16(block + offsetof(Block, nibbles), stride, pairs);
    for (size_t j = 0; j < 4; ++j) {
      out[j] = LowNibbles(pairs[j]);
      out[j + 4] = HighNibbles(pairs[j]);
    }
  }
  static void Decode(const Block& block, float* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>((block.nibbles[i] & 15) - 8);
      out[i + 16] = scale * static_cast<float>((block.nibbles[i] >> 4) - 8);
    }
  }
};

struct CodecQ8_0 {
  using Block = BlockQ8_0;
  using Dot = DotSigned;
  static void Unpack(const std::byte* block, size_t stride, Bytes out[kGroups]) {
    LoadRows16(block + offsetof(Block, values), stride, out);
    LoadRows16(block + offsetof(Block, values) + 16, stride, out + 4);
    for (size_t j = 0; j < kGroups; ++j) out[j] = PackSigned(out[j]);
  }
  static void Decode(const Block& block, float* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t i = 0; i < kBlockValues; ++i) out[i] = scale * static_cast<float>(block.values[i]);
  }
};

template <class Codec>
void DequantizeBlocks(const std::byte* row, size_t k, float* out) {
  typename Codec::Block block;
  for (size_t i = 0; i + kBlockValues <= k; i += kBlockValues, row += sizeof block) {
    __builtin_memcpy(&block, row, sizeof block);
    Codec::Decode(block, out + i);
  }
}

// A float format: its size in memory, and loads and stores of whole and part vectors.
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
