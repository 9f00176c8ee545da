// Codebook weight types of less than two bits. Include after codec_iq.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// values = 8 * codeword + delta, delta 1 or -1: eighths, so that they are whole.
inline void PutEighths(const int8_t codeword[8], int delta, int8_t* values) {
  for (size_t i = 0; i < 8; ++i) values[i] = static_cast<int8_t>(codeword[i] * 8 + delta);
}
// Exact: a half divided by 8 is no subnormal float.
inline float EighthScale(float scale, int code) { return scale * static_cast<float>(2 * code + 1) * 0.125f; }

inline F32 EighthScale(F32 scale, F32 code) {
  return Mul(Mul(scale, Add(Add(code, code), Set(1.0f))), Set(0.125f));
}
// Codeword kIndex of 32 values as eighths. `minus`: 2 in the bytes of lanes whose delta is -1, else 0.
template <int kIndex, class Panel>
void UnpackEighths(Bytes number, Bytes minus, Panel* out) {
  const auto eighths = [minus](Bytes x) {
    return SubBytes(Or(And(ShiftLeft<3>(x), SplatByte(0xf8)), SplatByte(1)), minus);
  };
  Bytes first, last;
  TableRows8(kIq1Grid, number, &first, &last);
  StoreBytes(out->bytes[2 * kIndex], Panel::Dot::Pack(eighths(first)));
  StoreBytes(out->bytes[2 * kIndex + 1], Panel::Dot::Pack(eighths(last)));
}

struct CodecIQ1_S {
  using Block = BlockIQ1_S;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 8; ++g) {
      const unsigned high = block.high[g];
      for (size_t i = 0; i < 4; ++i) {
        const size_t code = block.codes[g * 4 + i] | (high >> (3 * i) & 7) << 8;
        PutEighths(kIq1Grid[code], (high & 0x8000) == 0 ? 1 : -1, out->values + g * 32 + i * 8);
      }
      out->scales[g] = EighthScale(scale, high >> 12 & 7);
    }
  }
  using Panel = PanelBlock<Dot, 1, kMinima>;
  static void UnpackGroup(F32 scale, Bytes codes, Bytes high, Panel* out) {
    const Bytes minus = And(ShiftRight<6>(CopyByte<1>(high)), SplatByte(2));
    UnpackEighths<0>(CodewordNumber<0, 3, 0>(codes, high), minus, out);
    UnpackEighths<1>(CodewordNumber<1, 3, 3>(codes, high), minus, out);
    UnpackEighths<2>(CodewordNumber<2, 3, 6>(codes, high), minus, out);
    UnpackEighths<3>(CodewordNumber<3, 3, 9>(codes, high), minus, out);
    Store(out->scales[0], EighthScale(scale, UnsignedByte<1>(And(HighNibbles(high), SplatByte(7)))));
  }
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    const F32 scale = HalfFloat<0>(LoadRows4(block, stride));
    Bytes codes[8], high[4];
    LoadRows32(block + offsetof(Block, codes), stride, codes);
    LoadRows16(block + offsetof(Block, high), stride, high);
    for (size_t g = 0; g < kSuperBlocks; g += 2) {
      UnpackGroup(scale, codes[g], high[g / 2], out + g);
      UnpackGroup(scale, codes[g + 1], ShiftRight<16>(high[g / 2]), out + g + 1);
    }
  }
};

struct CodecIQ1_M {
  using Block = BlockIQ1_M;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 16;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    unsigned half = 0;
    for (size_t i = 0; i < 4; ++i) half |= block.scales[i] >> 12u << (4 * i);
    const uint16_t half_scale = static_cast<uint16_t>(half);
    const float scale = LoadHalf(&half_scale);
    for (size_t i = 0; i < 32; ++i) {
      const unsigned high = block.high[i / 2] >> (i % 2 * 4);
      PutEighths(kIq1Grid[block.codes[i] | (high & 7) << 8], (high & 8) == 0 ? 1 : -1, out->values + i * 8);
    }
    for (size_t g = 0; g < 16; ++g) {
      out->scales[g] = EighthScale(scale, block.scales[g / 4] >> (g % 4 * 3) & 7);
    }
  }
  using Panel = PanelBlock<Dot, 2, kMinima>;
  // kScales: the bit at which the group's two sub-scales begin.
  template <int kScales>
  static void UnpackGroup(F32 scale, Bytes codes, Bytes high, Bytes scales, Panel* out) {
    const Bytes two = SplatByte(2), low = CopyByte<0>(high), upper = CopyByte<1>(high);
    UnpackEighths<0>(CodewordNumber<0, 3, 0>(codes, high), And(ShiftRight<2>(low), two), out);
    UnpackEighths<1>(CodewordNumber<1, 3, 4>(codes, high), And(ShiftRight<6>(low), two), out);
    UnpackEighths<2>(CodewordNumber<2, 3, 8>(codes, high), And(ShiftRight<2>(upper), two), out);
    UnpackEighths<3>(CodewordNumber<3, 3, 12>(codes, high), And(ShiftRight<6>(upper), two), out);
    const Bytes seven = SplatByte(7);
    Store(out->scales[0], EighthScale(scale, UnsignedByte<0>(And(ShiftRight<kScales>(scales), seven))));
    Store(out->scales[1], EighthScale(scale, UnsignedByte<0>(And(ShiftRight<kScales + 3>(scales), seven))));
  }
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    Bytes codes[8], high[4], tail[4];
    LoadRows32(block, stride, codes);
    LoadRows16(block + offsetof(Block, high), stride, high);
    LoadRows16(block + sizeof(Block) - 16, stride, tail);
    const Bytes a = tail[2], b = tail[3];
    const F32 scale = HalfFloat<0>(
        Or(Or(And(ShiftRight<12>(a), SplatLane(0xf)), And(ShiftRight<24>(a), SplatLane(0xf0))),
           Or(And(ShiftRight<4>(b), SplatLane(0xf00)), And(ShiftRight<16>(b), SplatLane(0xf000)))));
    for (size_t h = 0; h < 2; ++h) {
      Panel* four = out + 4 * h;
      const Bytes* of = codes + 4 * h;
      const Bytes* bits = high + 2 * h;
      UnpackGroup<0>(scale, of[0], bits[0], tail[2 + h], four);
      UnpackGroup<6>(scale, of[1], ShiftRight<16>(bits[0]), tail[2 + h], four + 1);
      UnpackGroup<16>(scale, of[2], bits[1], tail[2 + h], four + 2);
      UnpackGroup<22>(scale, of[3], ShiftRight<16>(bits[1]), tail[2 + h], four + 3);
    }
  }
};

}  // namespace
}  // namespace pygrok
