// Codebook weight types of less than two bits. Include after codec_iq.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// (2 * sub-scale + 1) / 8, exact: a half divided by 8 is no subnormal float.
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
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
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
  using Panel = PanelBlock<Dot, 2, false>;
  static constexpr size_t kValues = 256;
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
