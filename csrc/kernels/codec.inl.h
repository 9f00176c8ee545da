// What the codecs of all weight types share (the codecs: codec_*.inl.h). Include after formats.inl.h.
//
// A codec says how one block of its type reads:
//   Block    the struct of blocks.h
//   kValues  of a block; kGroup: values that share a scale, 32 or 16
//   kMinima  whether a group also has a minimum that is subtracted
//   Dot      the integer dot product for its values, see simd_scalar.h
//   Expand   one block of one row, each value = scales[group] * values[i] - minima[group], float operations
//   in
//            the order of the gguf package, so that dequantized values have its bits
//   Unpack   (where it pays) kLanes rows of one block at once into a panel; without it they are expanded one
//   by
//            one and transposed. Both give the same bits.
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

// kLanes rows of one block, the next rows `stride` bytes on, through Expand: kValues / 32 panel blocks.
template <class Codec>
void UnpackByRow(const std::byte* block, size_t stride, PanelOf<Codec>* out) {
  using Panel = PanelOf<Codec>;
  Expanded rows[kLanes];
  for (size_t r = 0; r < kLanes; ++r) {
    typename Codec::Block copy;
    __builtin_memcpy(&copy, block + r * stride, sizeof copy);
    Codec::Expand(copy, &rows[r]);
  }
  const auto from = [&rows](const void* field) {
    return reinterpret_cast<const std::byte*>(rows) +
           (static_cast<const std::byte*>(field) - reinterpret_cast<const std::byte*>(rows));
  };
  Bytes four[4];
  for (size_t i = 0; i < Codec::kValues; i += 16) {
    LoadRows16(from(rows[0].values + i), sizeof(Expanded), four);
    for (size_t j = 0; j < 4; ++j) {
      StoreBytes(out[i / kBlockValues].bytes[i % kBlockValues / 4 + j], Panel::Dot::Pack(four[j]));
    }
  }
  constexpr size_t kCount = Codec::kValues / Codec::kGroup;
  for (size_t g = 0; g < kCount; g += 4) {
    LoadRows16(from(rows[0].scales + g), sizeof(Expanded), four);
    for (size_t j = 0; j < Fewer(4, kCount - g); ++j) {
      StoreBytes(out[(g + j) / Panel::kScales].scales[(g + j) % Panel::kScales], four[j]);
    }
    if constexpr (Codec::kMinima) {
      LoadRows16(from(rows[0].minima + g), sizeof(Expanded), four);
      for (size_t j = 0; j < Fewer(4, kCount - g); ++j) {
        StoreBytes(out[(g + j) / Panel::kScales].minima((g + j) % Panel::kScales), four[j]);
      }
    }
  }
}

template <class Codec>
void Unpack(const std::byte* block, size_t stride, PanelOf<Codec>* out) {
  if constexpr (requires { Codec::Unpack(block, stride, out); }) {
    Codec::Unpack(block, stride, out);
  } else {
    UnpackByRow<Codec>(block, stride, out);
  }
}

}  // namespace
}  // namespace pygrok
