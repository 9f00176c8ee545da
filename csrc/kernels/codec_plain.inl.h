// Weight types of 32-value blocks. Include after codec.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// Nibbles in the order of their values.
inline void ExpandNibbles(const uint8_t nibbles[16], int8_t* values) {
  for (size_t i = 0; i < 16; ++i) {
    values[i] = static_cast<int8_t>(nibbles[i] & 15);
    values[i + 16] = static_cast<int8_t>(nibbles[i] >> 4);
  }
}

// The fifth bits of 32 values.
inline void AddHighBits(const uint8_t high[4], int8_t* values) {
  for (size_t i = 0; i < 32; ++i) {
    values[i] = static_cast<int8_t>(values[i] + (high[i / 8] >> (i % 8) & 1) * 16);
  }
}

// Scales of kLanes rows.
template <class Block>
void LoadScales(const std::byte* block, size_t stride, float* out) {
  uint16_t halves[kLanes];
  for (size_t r = 0; r < kLanes; ++r) {
    __builtin_memcpy(halves + r, block + offsetof(Block, scale) + r * stride, sizeof(uint16_t));
  }
  Store(out, LoadF16(halves));
}

// codes[j] |= 16 * bits 4 j .. 4 j + 3 of each row's word: 4 bits times 0x204081 lie at the bottom of 4
// bytes.
template <size_t J = 0>
void AddHighBits(Bytes high, Bytes codes[kGroups]) {
  if constexpr (J < kGroups) {
    codes[J] = Or(codes[J], SpreadBits<4 * J>(high));
    AddHighBits<J + 1>(high, codes);
  }
}

struct CodecQ4_0 {
  using Block = BlockQ4_0;
  using Dot = DotNibble;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    ExpandNibbles(block.nibbles, out->values);
    for (size_t i = 0; i < 32; ++i) out->values[i] = static_cast<int8_t>(out->values[i] - 8);
    out->scales[0] = LoadHalf(&block.scale);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    LoadScales<Block>(block, stride, out->scales[0]);
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], codes[j]);
  }
};

struct CodecQ4_1 {
  using Block = BlockQ4_1;
  using Dot = DotCode;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = true;
  static void Expand(const Block& block, Expanded* out) {
    ExpandNibbles(block.nibbles, out->values);
    out->scales[0] = LoadHalf(&block.scale);
    out->minima[0] = -LoadHalf(&block.offset);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    const Bytes halves = LoadRows4(block, stride);
    Store(out->scales[0], HalfFloat<0>(halves));
    Store(out->minima(0), Sub(Set(-0.0f), HalfFloat<1>(halves)));
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], codes[j]);
  }
};

struct CodecQ5_0 {
  using Block = BlockQ5_0;
  using Dot = DotSigned;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    ExpandNibbles(block.nibbles, out->values);
    AddHighBits(block.high, out->values);
    for (size_t i = 0; i < 32; ++i) out->values[i] = static_cast<int8_t>(out->values[i] - 16);
    out->scales[0] = LoadHalf(&block.scale);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    LoadScales<Block>(block, stride, out->scales[0]);
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    AddHighBits(LoadRows4(block + offsetof(Block, high), stride), codes);
    const Bytes offset = SplatByte(16);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], Dot::Pack(SubBytes(codes[j], offset)));
  }
};

struct CodecQ5_1 {
  using Block = BlockQ5_1;
  using Dot = DotCode;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = true;
  static void Expand(const Block& block, Expanded* out) {
    ExpandNibbles(block.nibbles, out->values);
    AddHighBits(block.high, out->values);
    out->scales[0] = LoadHalf(&block.scale);
    out->minima[0] = -LoadHalf(&block.offset);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    const Bytes halves = LoadRows4(block, stride);
    Store(out->scales[0], HalfFloat<0>(halves));
    Store(out->minima(0), Sub(Set(-0.0f), HalfFloat<1>(halves)));
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    AddHighBits(LoadRows4(block + offsetof(Block, high), stride), codes);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], codes[j]);
  }
};

struct CodecQ8_0 {
  using Block = BlockQ8_0;
  using Dot = DotSigned;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    __builtin_memcpy(out->values, block.values, 32);
    out->scales[0] = LoadHalf(&block.scale);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    LoadScales<Block>(block, stride, out->scales[0]);
    Bytes values[kGroups];
    LoadRows16(block + offsetof(Block, values), stride, values);
    LoadRows16(block + offsetof(Block, values) + 16, stride, values + 4);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], Dot::Pack(values[j]));
  }
};

struct CodecIQ4_NL {
  using Block = BlockIQ4_NL;
  using Dot = DotSigned;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    ExpandTable(block.nibbles, kIq4Values, out->values);
    out->scales[0] = LoadHalf(&block.scale);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    LoadScales<Block>(block, stride, out->scales[0]);
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    for (size_t j = 0; j < kGroups; ++j) {
      StoreBytes(out->bytes[j], Dot::Pack(Lookup(kIq4Values, codes[j])));
    }
  }
};

// 2^(exponent - 128): with half the scale, the doubled values of the table are whole numbers.
inline float HalfPowerOf2(uint8_t exponent) {
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : static_cast<uint32_t>(exponent - 1) << 23;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

struct CodecMXFP4 {
  using Block = BlockMXFP4;
  using Dot = DotSigned;
  static constexpr size_t kValues = 32, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    ExpandTable(block.nibbles, kMxfp4Values, out->values);
    out->scales[0] = HalfPowerOf2(block.exponent);
  }
  static void Unpack(const std::byte* block, size_t stride, PanelBlock<Dot, 1, kMinima>* out) {
    for (size_t r = 0; r < kLanes; ++r) {
      out->scales[0][r] = HalfPowerOf2(static_cast<uint8_t>(block[r * stride]));
    }
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    for (size_t j = 0; j < kGroups; ++j) {
      StoreBytes(out->bytes[j], Dot::Pack(Lookup(kMxfp4Values, codes[j])));
    }
  }
};

}  // namespace
}  // namespace pygrok
