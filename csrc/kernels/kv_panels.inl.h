// A run of cached keys or values as panels of float32, 64 columns wide, which attention multiplies with.
// kernel_table.h says how runs lie in memory. Include after formats.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kPanel = kKvBlockPositions;  // rows of a panel at most, and its columns

// Panels are panel[row][kPanel]: of keys, rows are dimensions and columns the positions; of values, rows are
// positions and columns dimensions.
template <class Format>
struct FloatCache {
  static size_t RunBytes(size_t d) { return kPanel * d * Format::kBytes; }
  // Dimensions [first, first + rows). Returns where the panel is.
  static const float* Keys(const std::byte* run, size_t, size_t first, size_t rows, float* panel) {
    ReadFloats<Format>(run + first * kPanel * Format::kBytes, rows * kPanel, panel);
    return panel;
  }
  // Columns [first, first + columns) of the first `rows` positions; whole vectors are written.
  static void Values(const std::byte* run, size_t d, size_t first, size_t columns, size_t rows,
                     float* panel) {
    for (size_t row = 0; row < rows; ++row) {
      const std::byte* from = run + (row * d + first) * Format::kBytes;
      float* to = panel + row * kPanel;
      size_t c = 0;
      for (; c + kLanes <= columns; c += kLanes) Store(to + c, Format::Read(from + c * Format::kBytes));
      if (c < columns) Store(to + c, Format::ReadN(from + c * Format::kBytes, columns - c));
    }
  }
  static void StoreVector(const float* x, size_t n, void* out) {
    WriteFloats<Format>(x, n, static_cast<std::byte*>(out));
  }
  static void LoadVector(const void* x, size_t n, float* out) {
    ReadFloats<Format>(static_cast<const std::byte*>(x), n, out);
  }
};

// Keys in float32 are a panel already.
template <>
inline const float* FloatCache<FormatF32>::Keys(const std::byte* run, size_t, size_t first, size_t, float*) {
  return reinterpret_cast<const float*>(run) + first * kPanel;
}

// Blocks of 32 values along the head: value = scale * code, exact in float32 (11 bits times 8).
struct Q8Cache {
  static constexpr size_t kCodesAt = kPanel * sizeof(uint16_t);  // in a group of kGroupBytes
  static constexpr size_t kGroupBytes = kPanel * sizeof(BlockQ8_0);
  static size_t RunBytes(size_t d) { return d / kBlockValues * kGroupBytes; }

  static void Scales(const std::byte* group, float out[kPanel]) { ReadFloats<FormatF16>(group, kPanel, out); }
  // 64 codes at `codes`, byte kByte of whose lanes are 16 consecutive ones.
  template <int kByte>
  static void Expand(Bytes codes, F32 scale, float* out) {
    Store(out, Mul(SignedByte<kByte>(codes), scale));
  }

  static const float* Keys(const std::byte* run, size_t, size_t first, size_t rows, float* panel) {
    for (size_t row = 0; row < rows; row += kBlockValues) {
      const std::byte* group = run + (first + row) / kBlockValues * kGroupBytes;
      float scales[kPanel];
      Scales(group, scales);
      for (size_t i = 0; i < kBlockValues; ++i) {
        const std::byte* codes = group + kCodesAt + i * kPanel;
        float* to = panel + (row + i) * kPanel;
        for (size_t c = 0; c < 16; c += kLanes) {
          const Bytes bytes = LoadBytes(codes + 4 * c);
          Expand<0>(bytes, Load(scales + c), to + c);
          Expand<1>(bytes, Load(scales + 16 + c), to + 16 + c);
          Expand<2>(bytes, Load(scales + 32 + c), to + 32 + c);
          Expand<3>(bytes, Load(scales + 48 + c), to + 48 + c);
        }
      }
    }
    return panel;
  }

  static void Values(const std::byte* run, size_t, size_t first, size_t columns, size_t rows, float* panel) {
    for (size_t column = 0; column < columns; column += kBlockValues) {
      const std::byte* group = run + (first + column) / kBlockValues * kGroupBytes;
      float scales[kPanel];
      Scales(group, scales);
      for (size_t row = 0; row < rows; row += 2) {  // 64 codes are those of two positions
        const std::byte* codes = group + kCodesAt + row * kBlockValues;
        const F32 scale = Set(scales[row]), next_scale = Set(scales[row + 1]);
        float* to = panel + row * kPanel + column;
        for (size_t c = 0; c < 16; c += kLanes) {
          const Bytes bytes = LoadBytes(codes + 4 * c);
          Expand<0>(bytes, scale, to + c);
          Expand<1>(bytes, scale, to + 16 + c);
          Expand<2>(bytes, next_scale, to + kPanel + c);
          Expand<3>(bytes, next_scale, to + kPanel + 16 + c);
        }
      }
    }
  }

  // The blocks of GGUF's Q8_0. A block with a NaN or infinity gets such a scale and so becomes all NaN.
  static void StoreVector(const float* x, size_t n, void* out) {
    std::byte* to = static_cast<std::byte*>(out);
    for (size_t i = 0; i + kBlockValues <= n; i += kBlockValues, to += sizeof(BlockQ8_0)) {
      BlockQ8_0 block = {};
      const uint32_t bits = MaxMagnitudeBits(x + i);
      float max;
      __builtin_memcpy(&max, &bits, sizeof max);
      const bool finite = bits < 0x7f800000;
      const float scale = finite ? max / 127.0f : __builtin_nanf("");
      if (finite && max >= kSmallestActivation) QuantizeBlock(x + i, 1.0f / scale, block.values);
      float lanes[kLanes] = {scale};
      StoreF16N(&block.scale, Load(lanes), 1);
      __builtin_memcpy(to, &block, sizeof block);
    }
  }
  static void LoadVector(const void* x, size_t n, float* out) {
    const std::byte* from = static_cast<const std::byte*>(x);
    for (size_t i = 0; i + kBlockValues <= n; i += kBlockValues, from += sizeof(BlockQ8_0)) {
      BlockQ8_0 block;
      __builtin_memcpy(&block, from, sizeof block);
      float scale[kLanes];
      Store(scale, LoadF16N(&block.scale, 1));
      for (size_t j = 0; j < kBlockValues; ++j) out[i + j] = scale[0] * static_cast<float>(block.values[j]);
    }
  }
};

}  // namespace
}  // namespace pygrok
