// What the codecs of all weight types share (the codecs: codec_*.inl.h). Include after formats.inl.h.
//
// A codec says how blocks of its type read:
//   Block    the struct of blocks.h
//   kValues  of a block
//   Dot      the integer dot product for its values, see simd_scalar.h
//   Panel    what 32 values of kLanes rows become: PanelBlock<Dot, groups that share a scale, have minima?>
//   Unpack   kLanes rows of one block, the next row `stride` bytes on, into kValues / 32 blocks of a panel:
//            value = scale * code - minimum, float operations in the order of the gguf package, so that
//            dequantized values have its bits
#pragma once

#include "kernels/blocks.h"

namespace pygrok {
namespace {

constexpr size_t kGroups = kBlockValues / 4;  // vectors of Bytes that 32 values of kLanes rows take
constexpr size_t kSuperBlocks = kSuperValues / kBlockValues;  // blocks of 32 values in a super-block

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

// The dot product (see simd_scalar.h) of codes 0..63 that stand for -32..31.
struct DotSixBits : DotCode {
  template <size_t kPart>
  static Acc Init(const ActivationBlock& a) {
    return SplatSum(a.minus_128_sum[kPart] / 4);
  }
};

// The values, as signed bytes, that packed bytes of a panel stand for. Packing signed values twice gives them
// back.
inline Bytes ValuesOf(DotSigned, Bytes packed) { return DotSigned::Pack(packed); }
inline Bytes ValuesOf(DotCode, Bytes packed) { return packed; }
inline Bytes ValuesOf(DotNibble, Bytes packed) { return SubBytes(packed, SplatByte(8)); }
inline Bytes ValuesOf(DotSixBits, Bytes packed) { return SubBytes(packed, SplatByte(32)); }

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

// kLanes rows of blocks.
struct Rows {
  const std::byte* first;
  size_t stride;
};

// Bytes of `blocks` blocks of 32 values in a row.
template <class Codec>
constexpr size_t BytesOf(size_t blocks) {
  return blocks * kBlockValues / Codec::kValues * sizeof(typename Codec::Block);
}

// The same blocks of `rows` rows, filled up to kLanes with zero rows if need be.
template <class Codec>
Rows CompleteRows(Rows from, size_t rows, size_t blocks, std::byte* copy) {
  if (rows == kLanes) return from;
  const size_t bytes = BytesOf<Codec>(blocks);
  __builtin_memset(copy, 0, kLanes * bytes);
  for (size_t r = 0; r < rows; ++r) __builtin_memcpy(copy + r * bytes, from.first + r * from.stride, bytes);
  return {copy, bytes};
}

// Row r of a panel to out + r * stride.
template <class Panel>
void WriteValues(const Panel& panel, size_t rows, size_t stride, float* out) {
  constexpr size_t kOfScale = kBlockValues / Panel::kScales;
  int8_t values[kLanes][kBlockValues];
  for (size_t j = 0; j < kGroups; ++j) {
    uint8_t bytes[kLanes * 4];
    StoreBytes(bytes, ValuesOf(typename Panel::Dot{}, LoadBytes(panel.bytes[j])));
    for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(values[r] + 4 * j, bytes + 4 * r, 4);
  }
  for (size_t r = 0; r < rows; ++r) {
    float x[kBlockValues];
    for (size_t i = 0; i < kBlockValues; ++i) x[i] = static_cast<float>(values[r][i]);
    for (size_t i = 0; i < kBlockValues; i += kLanes) {
      const size_t group = i / kOfScale;
      F32 value = Mul(Set(panel.scales[group][r]), Load(x + i));
      if constexpr (Panel::kMinima) value = Sub(value, Set(panel.minima(group)[r]));
      Store(out + r * stride + i, value);
    }
  }
}

// A row's blocks in turn as the rows of panels.
template <class Codec>
void DequantizeBlocks(const std::byte* row, size_t k, float* out) {
  constexpr size_t kPanels = Codec::kValues / kBlockValues;
  constexpr size_t kBytes = sizeof(typename Codec::Block);
  typename Codec::Panel panels[kPanels];
  std::byte copy[kLanes * kBytes];
  for (size_t left = k / Codec::kValues; left > 0;) {
    const size_t count = Fewer(left, kLanes);
    const Rows blocks = CompleteRows<Codec>({row, kBytes}, count, kPanels, copy);
    Codec::Unpack(blocks.first, blocks.stride, panels);
    for (size_t p = 0; p < kPanels; ++p) {
      WriteValues(panels[p], count, Codec::kValues, out + p * kBlockValues);
    }
    row += count * kBytes;
    out += count * Codec::kValues;
    left -= count;
  }
}

}  // namespace
}  // namespace pygrok
