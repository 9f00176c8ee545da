// What the codecs of all weight types share (the codecs: codec_*.inl.h). Include after formats.inl.h.
//
// A codec says how one block of its type reads:
//   Block    the struct of blocks.h
//   kValues  of a block; kGroup: values that share a scale, 32 or 16
//   kMinima  whether a group also has a minimum that is subtracted
//   Dot      the integer dot product for its values, see simd_scalar.h
//   Expand   one block of one row, each value = scales[group] * values[i] - minima[group], float operations
//            in the order of the gguf package, so that dequantized values have its bits
//   Unpack   kLanes rows of one block at once, the next row `stride` bytes on, into kValues / 32 blocks of a
//            panel: the same values and scales
#pragma once

#include "kernels/blocks.h"

namespace pygrok {
namespace {

constexpr size_t kGroups = kBlockValues / 4;  // vectors of Bytes that 32 values of kLanes rows take
constexpr size_t kSuperBlocks = kSuperValues / kBlockValues;  // blocks of 32 values in a super-block

struct Expanded {
  alignas(16) int8_t values[kSuperValues];
  float scales[kSuperValues / 16];
  float minima[kSuperValues / 16];
};

// 32 values of kLanes rows side by side: per group of 32 or 16 the scales, then the minima if there are any.
template <class DotType, size_t kScaleCount, bool kHasMinima>
struct PanelBlock {
  using Dot = DotType;
  static constexpr size_t kScales = kScaleCount;
  static constexpr bool kMinima = kHasMinima;
  uint8_t bytes[kGroups][kLanes * 4];
  float scales[kScales * (kMinima ? 2 : 1)][kLanes];
  float* minima(size_t group) { return scales[kScales + group]; }
  const float* minima(size_t group) const { return scales[kScales + group]; }
};

template <class Codec>
using PanelOf = PanelBlock<typename Codec::Dot, kBlockValues / Codec::kGroup, Codec::kMinima>;

// The dot product (see simd_scalar.h) of codes 0..63 that stand for -32..31.
struct DotSixBits : DotCode {
  template <size_t kPart>
  static Acc Init(const ActivationBlock& a) {
    return SplatSum(a.minus_128_sum[kPart] / 4);
  }
};

inline float LoadHalf(const void* p) {
  float lanes[kLanes];
  Store(lanes, LoadF16N(p, 1));
  return lanes[0];
}

// The 32 bytes at `p` of kLanes rows.
inline void LoadRows32(const std::byte* p, size_t stride, Bytes out[kGroups]) {
  LoadRows16(p, stride, out);
  LoadRows16(p + 16, stride, out + 4);
}

// 32 nibbles of kLanes rows, in the order of their values.
inline void LoadNibbles(const std::byte* nibbles, size_t stride, Bytes out[kGroups]) {
  Bytes pairs[4];
  LoadRows16(nibbles, stride, pairs);
  for (size_t j = 0; j < 4; ++j) {
    out[j] = LowNibbles(pairs[j]);
    out[j + 4] = HighNibbles(pairs[j]);
  }
}

// The four bytes at `p` of kLanes rows.
inline Bytes LoadRows4(const std::byte* p, size_t stride) {
  uint32_t words[kLanes];
  for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(words + r, p + r * stride, sizeof(uint32_t));
  return LoadBytes(words);
}

// Values of a table by nibbles, in the order of their values.
inline void ExpandTable(const uint8_t nibbles[16], const int8_t table[16], int8_t* values) {
  for (size_t i = 0; i < 16; ++i) {
    values[i] = table[nibbles[i] & 15];
    values[i + 16] = table[nibbles[i] >> 4];
  }
}

template <class Codec>
void DequantizeBlocks(const std::byte* row, size_t k, float* out) {
  typename Codec::Block block;
  Expanded e;
  for (size_t i = 0; i + Codec::kValues <= k; i += Codec::kValues, row += sizeof block) {
    __builtin_memcpy(&block, row, sizeof block);
    Codec::Expand(block, &e);
    for (size_t g = 0; g < Codec::kValues / Codec::kGroup; ++g) {
      for (size_t j = 0; j < Codec::kGroup; ++j) {
        const size_t v = g * Codec::kGroup + j;
        const float value = e.scales[g] * static_cast<float>(e.values[v]);
        if constexpr (Codec::kMinima) {
          out[i + v] = value - e.minima[g];
        } else {
          out[i + v] = value;
        }
      }
    }
  }
}

}  // namespace
}  // namespace pygrok
