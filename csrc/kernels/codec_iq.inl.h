// Codebook weight types, and IQ4_XS. Include after codec.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// (sub-scale + 1/2) / 4, rounded as the format defines it: from the left.
inline F32 QuarterScale(F32 scale, F32 code) { return Mul(Mul(scale, Add(Set(0.5f), code)), Set(0.25f)); }

// Scales of four groups of 32: for each 16 values a nibble of `codes`.
template <class Panel>
void UnpackQuarterScales(F32 scale, Bytes codes, Panel* out) {
  const Bytes low = LowNibbles(codes), high = HighNibbles(codes);
  Store(out[0].scales[0], QuarterScale(scale, UnsignedByte<0>(low)));
  Store(out[0].scales[1], QuarterScale(scale, UnsignedByte<0>(high)));
  Store(out[1].scales[0], QuarterScale(scale, UnsignedByte<1>(low)));
  Store(out[1].scales[1], QuarterScale(scale, UnsignedByte<1>(high)));
  Store(out[2].scales[0], QuarterScale(scale, UnsignedByte<2>(low)));
  Store(out[2].scales[1], QuarterScale(scale, UnsignedByte<2>(high)));
  Store(out[3].scales[0], QuarterScale(scale, UnsignedByte<3>(low)));
  Store(out[3].scales[1], QuarterScale(scale, UnsignedByte<3>(high)));
}

// Of each lane: byte kByte as the number of a codeword, above it kBits bits of `high`, the lowest of which is
// bit kFirst.
template <int kByte>
Bytes CodewordNumber(Bytes codes) {
  return And(ShiftRight<8 * kByte>(codes), SplatLane(255));
}
template <int kByte, int kBits, int kFirst>
Bytes CodewordNumber(Bytes codes, Bytes high) {
  constexpr uint32_t kMask = ((1u << kBits) - 1) << 8;
  if constexpr (kFirst <= 8) {
    return Or(CodewordNumber<kByte>(codes), And(ShiftLeft<8 - kFirst>(high), SplatLane(kMask)));
  } else {
    return Or(CodewordNumber<kByte>(codes), And(ShiftRight<kFirst - 8>(high), SplatLane(kMask)));
  }
}

// Byte i: the 7 bits of field i, and above them their parity, so that the number of bits is even.
inline Bytes EvenSigns(Bytes first, Bytes second, Bytes third, Bytes fourth) {
  alignas(16) static constexpr int8_t kOdd[16] = {0,    -128, -128, 0,    -128, 0,    0,    -128,
                                                  -128, 0,    0,    -128, 0,    -128, -128, 0};
  const Bytes fields = Or(Or(And(first, SplatLane(0x7f)), And(second, SplatLane(0x7f00))),
                          Or(And(third, SplatLane(0x7f0000)), And(fourth, SplatLane(0x7f000000))));
  return Or(fields, Xor(Lookup(kOdd, LowNibbles(fields)), Lookup(kOdd, HighNibbles(fields))));
}
// Of 28 bits in a row.
inline Bytes EvenSigns(Bytes word) {
  return EvenSigns(word, ShiftLeft<1>(word), ShiftLeft<2>(word), ShiftLeft<3>(word));
}

// Codeword kIndex of 32 values: signed 8 or 4 of them by rows of a grid, with 32 bits of signs.
template <int kIndex, class Panel>
void UnpackSigned8(const uint8_t (*grid)[8], Bytes number, Bytes signs, Panel* out) {
  Bytes first, last;
  TableRows8(grid, number, &first, &last);
  StoreBytes(out->bytes[2 * kIndex], Panel::Dot::Pack(NegateWhere<8 * kIndex>(first, signs)));
  StoreBytes(out->bytes[2 * kIndex + 1], Panel::Dot::Pack(NegateWhere<8 * kIndex + 4>(last, signs)));
}
template <int kIndex, class Panel>
void UnpackSigned4(const uint8_t (*grid)[4], Bytes number, Bytes signs, Panel* out) {
  StoreBytes(out->bytes[kIndex], Panel::Dot::Pack(NegateWhere<4 * kIndex>(TableRows4(grid, number), signs)));
}

struct CodecIQ4_XS {
  using Block = BlockIQ4_XS;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  template <int kGroupIndex>
  static void UnpackScale(F32 scale, Bytes low, Bytes high, Panel* out) {
    // The code's six bits in the lowest byte of each lane.
    const Bytes four = And(ShiftRight<4 * kGroupIndex>(low), SplatByte(15));
    const Bytes two = And(ShiftLeft<4>(ShiftRight<2 * kGroupIndex>(high)), SplatByte(48));
    Store(out[kGroupIndex].scales[0], Mul(scale, SignedByte<0>(SubBytes(Or(four, two), SplatByte(32)))));
    if constexpr (kGroupIndex + 1 < 8) UnpackScale<kGroupIndex + 1>(scale, low, high, out);
  }
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const Bytes head = LoadRows4(block, stride);
    UnpackScale<0>(HalfFloat<0>(head), LoadRows4(block + offsetof(Block, scales_low), stride),
                   ShiftRight<16>(head), out);
    for (size_t g = 0; g < kSuperBlocks; ++g) {
      Bytes codes[kGroups];
      LoadNibbles(block + offsetof(Block, nibbles) + 16 * g, stride, codes);
      for (size_t j = 0; j < kGroups; ++j) {
        StoreBytes(out[g].bytes[j], Dot::Pack(Lookup(kIq4Values, codes[j])));
      }
    }
  }
};

struct CodecIQ2_XXS {
  using Block = BlockIQ2_XXS;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    for (size_t g = 0; g < kSuperBlocks; g += 2) {
      Bytes words[4];  // codes and signs of two groups
      LoadRows16(block + offsetof(Block, groups) + 8 * g, stride, words);
      for (size_t i = 0; i < 2; ++i) {
        Panel* to = out + g + i;
        const Bytes codes = words[2 * i], word = words[2 * i + 1], signs = EvenSigns(word);
        UnpackSigned8<0>(kIq2XxsGrid, CodewordNumber<0>(codes), signs, to);
        UnpackSigned8<1>(kIq2XxsGrid, CodewordNumber<1>(codes), signs, to);
        UnpackSigned8<2>(kIq2XxsGrid, CodewordNumber<2>(codes), signs, to);
        UnpackSigned8<3>(kIq2XxsGrid, CodewordNumber<3>(codes), signs, to);
        Store(to->scales[0], QuarterScale(scale, UnsignedByte<3>(HighNibbles(word))));
      }
    }
  }
};

struct CodecIQ2_XS {
  using Block = BlockIQ2_XS;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 2, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    Bytes tail[4];
    LoadRows16(block + sizeof(Block) - 16, stride, tail);
    UnpackQuarterScales(scale, tail[2], out);
    UnpackQuarterScales(scale, tail[3], out + 4);
    const Bytes low = SplatLane(511);
    for (size_t g = 0; g < kSuperBlocks; g += 2) {
      Bytes codes[4];
      LoadRows16(block + offsetof(Block, codes) + 8 * g, stride, codes);
      for (size_t i = 0; i < 2; ++i) {
        Panel* to = out + g + i;
        const Bytes a = codes[2 * i], b = codes[2 * i + 1];
        const Bytes signs = EvenSigns(ShiftRight<9>(a), ShiftRight<17>(a), ShiftLeft<7>(b), ShiftRight<1>(b));
        UnpackSigned8<0>(kIq2XsGrid, And(a, low), signs, to);
        UnpackSigned8<1>(kIq2XsGrid, And(ShiftRight<16>(a), low), signs, to);
        UnpackSigned8<2>(kIq2XsGrid, And(b, low), signs, to);
        UnpackSigned8<3>(kIq2XsGrid, And(ShiftRight<16>(b), low), signs, to);
      }
    }
  }
};

struct CodecIQ2_S {
  using Block = BlockIQ2_S;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 2, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    Bytes tail[4];  // high, then scales
    LoadRows16(block + offsetof(Block, high), stride, tail);
    for (size_t h = 0; h < 2; ++h) {
      UnpackQuarterScales(scale, tail[2 + h], out + 4 * h);
      Bytes codes[4], signs[4];
      LoadRows16(block + offsetof(Block, codes) + 16 * h, stride, codes);
      LoadRows16(block + offsetof(Block, signs) + 16 * h, stride, signs);
      Bytes high = tail[h];
      for (size_t i = 0; i < 4; ++i) {
        Panel* to = out + 4 * h + i;
        UnpackSigned8<0>(kIq2SGrid, CodewordNumber<0, 2, 0>(codes[i], high), signs[i], to);
        UnpackSigned8<1>(kIq2SGrid, CodewordNumber<1, 2, 2>(codes[i], high), signs[i], to);
        UnpackSigned8<2>(kIq2SGrid, CodewordNumber<2, 2, 4>(codes[i], high), signs[i], to);
        UnpackSigned8<3>(kIq2SGrid, CodewordNumber<3, 2, 6>(codes[i], high), signs[i], to);
        high = ShiftRight<8>(high);
      }
    }
  }
};

struct CodecIQ3_XXS {
  using Block = BlockIQ3_XXS;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    for (size_t h = 0; h < 2; ++h) {
      Bytes codes[8], words[4];
      LoadRows32(block + offsetof(Block, codes) + 32 * h, stride, codes);
      LoadRows16(block + offsetof(Block, signs) + 16 * h, stride, words);
      for (size_t i = 0; i < 4; ++i) {
        Panel* to = out + 4 * h + i;
        const Bytes a = codes[2 * i], b = codes[2 * i + 1], signs = EvenSigns(words[i]);
        UnpackSigned4<0>(kIq3XxsGrid, CodewordNumber<0>(a), signs, to);
        UnpackSigned4<1>(kIq3XxsGrid, CodewordNumber<1>(a), signs, to);
        UnpackSigned4<2>(kIq3XxsGrid, CodewordNumber<2>(a), signs, to);
        UnpackSigned4<3>(kIq3XxsGrid, CodewordNumber<3>(a), signs, to);
        UnpackSigned4<4>(kIq3XxsGrid, CodewordNumber<0>(b), signs, to);
        UnpackSigned4<5>(kIq3XxsGrid, CodewordNumber<1>(b), signs, to);
        UnpackSigned4<6>(kIq3XxsGrid, CodewordNumber<2>(b), signs, to);
        UnpackSigned4<7>(kIq3XxsGrid, CodewordNumber<3>(b), signs, to);
        const F32 code = UnsignedByte<3>(HighNibbles(words[i]));
        Store(to->scales[0], Mul(Mul(scale, Add(Set(0.5f), code)), Set(0.5f)));
      }
    }
  }
};

struct CodecIQ3_S {
  using Block = BlockIQ3_S;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    Bytes middle[4], tail[4];
    LoadRows16(block + offsetof(Block, high), stride, middle);
    LoadRows16(block + sizeof(Block) - 16, stride, tail);
    Bytes scales = tail[3];
    for (size_t h = 0; h < 2; ++h) {
      Bytes codes[8], signs[4];
      LoadRows32(block + offsetof(Block, codes) + 32 * h, stride, codes);
      LoadRows16(block + offsetof(Block, signs) + 16 * h, stride, signs);
      Bytes high = middle[h];
      for (size_t i = 0; i < 4; ++i) {
        Panel* to = out + 4 * h + i;
        const Bytes a = codes[2 * i], b = codes[2 * i + 1];
        UnpackSigned4<0>(kIq3SGrid, CodewordNumber<0, 1, 0>(a, high), signs[i], to);
        UnpackSigned4<1>(kIq3SGrid, CodewordNumber<1, 1, 1>(a, high), signs[i], to);
        UnpackSigned4<2>(kIq3SGrid, CodewordNumber<2, 1, 2>(a, high), signs[i], to);
        UnpackSigned4<3>(kIq3SGrid, CodewordNumber<3, 1, 3>(a, high), signs[i], to);
        UnpackSigned4<4>(kIq3SGrid, CodewordNumber<0, 1, 4>(b, high), signs[i], to);
        UnpackSigned4<5>(kIq3SGrid, CodewordNumber<1, 1, 5>(b, high), signs[i], to);
        UnpackSigned4<6>(kIq3SGrid, CodewordNumber<2, 1, 6>(b, high), signs[i], to);
        UnpackSigned4<7>(kIq3SGrid, CodewordNumber<3, 1, 7>(b, high), signs[i], to);
        const F32 code = UnsignedByte<0>(LowNibbles(scales));
        Store(to->scales[0], Mul(scale, Add(Set(1.0f), Add(code, code))));
        high = ShiftRight<8>(high);
        scales = ShiftRight<4>(scales);
      }
    }
  }
};

}  // namespace
}  // namespace pygrok
