// Weight types of 32-value blocks. Include after codec.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// The scales at the start of kLanes rows' blocks.
inline void LoadScales(const std::byte* block, size_t stride, float* out) {
  Store(out, HalfFloat<0>(LoadRows4(block, stride)));
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
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    LoadScales(block, stride, out->scales[0]);
    Bytes codes[kGroups];
    LoadNibbles(block + offsetof(Block, nibbles), stride, codes);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], codes[j]);
  }
};

struct CodecQ4_1 {
  using Block = BlockQ4_1;
  using Dot = DotCode;
  using Panel = PanelBlock<Dot, 1, true>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
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
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    LoadScales(block, stride, out->scales[0]);
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
  using Panel = PanelBlock<Dot, 1, true>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
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
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    LoadScales(block, stride, out->scales[0]);
    Bytes values[kGroups];
    LoadRows16(block + offsetof(Block, values), stride, values);
    LoadRows16(block + offsetof(Block, values) + 16, stride, values + 4);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(out->bytes[j], Dot::Pack(values[j]));
  }
};

struct CodecIQ4_NL {
  using Block = BlockIQ4_NL;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    LoadScales(block, stride, out->scales[0]);
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
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 32;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
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
