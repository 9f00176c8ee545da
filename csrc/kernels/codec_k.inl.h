// Weight types of 256-value super-blocks with evenly spaced values. Include after codec.inl.h.
#pragma once

#include "kernels/blocks.h"

namespace pygrok {
namespace {

// Scales and minima of Q4_K and Q5_K from the first 16 bytes of each row's block.
template <class Panel>
void UnpackScales4(const std::byte* block, size_t stride, Panel* out) {
  Bytes head[4];
  LoadRows16(block, stride, head);
  const Bytes low = SplatByte(63), high = SplatByte(48);
  const Bytes scales[2] = {And(head[1], low), Or(LowNibbles(head[3]), And(ShiftRight<2>(head[1]), high))};
  const Bytes minima[2] = {And(head[2], low), Or(HighNibbles(head[3]), And(ShiftRight<2>(head[2]), high))};
  const F32 scale = HalfFloat<0>(head[0]), minimum = HalfFloat<1>(head[0]);
  for (size_t i = 0; i < 2; ++i) {
    Panel* four = out + 4 * i;
    Store(four[0].scales[0], Mul(scale, UnsignedByte<0>(scales[i])));
    Store(four[1].scales[0], Mul(scale, UnsignedByte<1>(scales[i])));
    Store(four[2].scales[0], Mul(scale, UnsignedByte<2>(scales[i])));
    Store(four[3].scales[0], Mul(scale, UnsignedByte<3>(scales[i])));
    Store(four[0].minima(0), Mul(minimum, UnsignedByte<0>(minima[i])));
    Store(four[1].minima(0), Mul(minimum, UnsignedByte<1>(minima[i])));
    Store(four[2].minima(0), Mul(minimum, UnsignedByte<2>(minima[i])));
    Store(four[3].minima(0), Mul(minimum, UnsignedByte<3>(minima[i])));
  }
}

// Stores scale * (signed byte) for four groups of 16, the bytes of `codes`.
template <class Panel>
void UnpackSignedScales(F32 scale, Bytes codes, Panel* out) {
  Store(out[0].scales[0], Mul(scale, SignedByte<0>(codes)));
  Store(out[0].scales[1], Mul(scale, SignedByte<1>(codes)));
  Store(out[1].scales[0], Mul(scale, SignedByte<2>(codes)));
  Store(out[1].scales[1], Mul(scale, SignedByte<3>(codes)));
}

// For each of the four blocks of 128 values in 2-bit codes, see BlockQ2_K: use(block, j, codes).
template <class Use>
void ForPairs(const std::byte* codes, size_t stride, const Use& use) {
  Bytes packed[kGroups];
  LoadRows32(codes, stride, packed);
  const Bytes low = SplatByte(3);
#pragma GCC unroll 8
  for (size_t j = 0; j < kGroups; ++j) {
    use(size_t{0}, j, And(packed[j], low));
    use(size_t{1}, j, And(ShiftRight<2>(packed[j]), low));
    use(size_t{2}, j, And(ShiftRight<4>(packed[j]), low));
    use(size_t{3}, j, And(ShiftRight<6>(packed[j]), low));
  }
}

struct CodecQ2_K {
  using Block = BlockQ2_K;
  using Dot = DotCode;
  using Panel = PanelBlock<Dot, 2, true>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    Bytes codes[4];
    LoadRows16(block, stride, codes);
    const Bytes halves = LoadRows4(block + offsetof(Block, scale), stride);
    const F32 scale = HalfFloat<0>(halves), minimum = HalfFloat<1>(halves);
    for (size_t i = 0; i < 4; ++i) {
      const Bytes scales = LowNibbles(codes[i]), minima = HighNibbles(codes[i]);
      UnpackSignedScales(scale, scales, out + 2 * i);
      Store(out[2 * i].minima(0), Mul(minimum, UnsignedByte<0>(minima)));
      Store(out[2 * i].minima(1), Mul(minimum, UnsignedByte<1>(minima)));
      Store(out[2 * i + 1].minima(0), Mul(minimum, UnsignedByte<2>(minima)));
      Store(out[2 * i + 1].minima(1), Mul(minimum, UnsignedByte<3>(minima)));
    }
    for (size_t half = 0; half < 2; ++half) {
      Panel* four = out + 4 * half;
      ForPairs(block + offsetof(Block, codes) + 32 * half, stride,
               [four](size_t b, size_t j, Bytes code) { StoreBytes(four[b].bytes[j], code); });
    }
  }
};

struct CodecQ3_K {
  using Block = BlockQ3_K;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 2, false>;
  static constexpr size_t kValues = 256;
  static void UnpackScales(const std::byte* block, size_t stride, Panel* out) {
    Bytes tail[4];  // the last 16 bytes: two of codes, then scales and the half
    LoadRows16(block + sizeof(Block) - 16, stride, tail);
    const Bytes a = Or(ShiftRight<16>(tail[0]), ShiftLeft<16>(tail[1]));
    const Bytes b = Or(ShiftRight<16>(tail[1]), ShiftLeft<16>(tail[2]));
    const Bytes c = Or(ShiftRight<16>(tail[2]), ShiftLeft<16>(tail[3]));
    const F32 scale = HalfFloat<1>(tail[3]);
    const Bytes high = SplatByte(48), offset = SplatByte(32);
    const auto put = [&](Bytes low4, Bytes high2, Panel* to) {
      UnpackSignedScales(scale, SubBytes(Or(low4, And(high2, high)), offset), to);
    };
    put(LowNibbles(a), ShiftLeft<4>(c), out);
    put(LowNibbles(b), ShiftLeft<2>(c), out + 2);
    put(HighNibbles(a), c, out + 4);
    put(HighNibbles(b), ShiftRight<2>(c), out + 6);
  }
  // The third bit of the codes of block kBlock, in its place.
  template <int kBlock>
  static Bytes HighBit(Bytes high) {
    constexpr int kLeft = kBlock < 2 ? 2 - kBlock : 0, kRight = kBlock < 2 ? 0 : kBlock - 2;
    return And(ShiftRight<kRight>(ShiftLeft<kLeft>(high)), SplatByte(4));
  }
  template <int kFirst>
  static void UnpackHalf(const std::byte* codes, size_t stride, const Bytes high[kGroups], Panel* out) {
    const Bytes offset = SplatByte(4);
    ForPairs(codes, stride, [&](size_t b, size_t j, Bytes code) {
      const Bytes bit = b == 0   ? HighBit<kFirst>(high[j])
                        : b == 1 ? HighBit<kFirst + 1>(high[j])
                        : b == 2 ? HighBit<kFirst + 2>(high[j])
                                 : HighBit<kFirst + 3>(high[j]);
      StoreBytes(out[kFirst + b].bytes[j], Dot::Pack(SubBytes(Or(code, bit), offset)));
    });
  }
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    UnpackScales(block, stride, out);
    Bytes high[kGroups];
    LoadRows32(block + offsetof(Block, high), stride, high);
    UnpackHalf<0>(block + offsetof(Block, codes), stride, high, out);
    UnpackHalf<4>(block + offsetof(Block, codes) + 32, stride, high, out);
  }
};

struct CodecQ4_K {
  using Block = BlockQ4_K;
  using Dot = DotCode;
  using Panel = PanelBlock<Dot, 1, true>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    UnpackScales4(block, stride, out);
    for (size_t part = 0; part < 4; ++part) {
      Bytes packed[kGroups];
      LoadRows32(block + offsetof(Block, nibbles) + 32 * part, stride, packed);
      Panel* two = out + 2 * part;
      for (size_t j = 0; j < kGroups; ++j) {
        StoreBytes(two[0].bytes[j], LowNibbles(packed[j]));
        StoreBytes(two[1].bytes[j], HighNibbles(packed[j]));
      }
    }
  }
};

struct CodecQ5_K {
  using Block = BlockQ5_K;
  using Dot = DotCode;
  using Panel = PanelBlock<Dot, 1, true>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    UnpackScales4(block, stride, out);
    Bytes high[kGroups];  // shifted on from part to part: the bits of the next two blocks at the bottom
    LoadRows32(block + offsetof(Block, high), stride, high);
    const Bytes bit = SplatByte(16);
    for (size_t part = 0; part < 4; ++part) {
      Bytes packed[kGroups];
      LoadRows32(block + offsetof(Block, nibbles) + 32 * part, stride, packed);
      Panel* two = out + 2 * part;
      for (size_t j = 0; j < kGroups; ++j) {
        StoreBytes(two[0].bytes[j], Or(LowNibbles(packed[j]), And(ShiftLeft<4>(high[j]), bit)));
        StoreBytes(two[1].bytes[j], Or(HighNibbles(packed[j]), And(ShiftLeft<3>(high[j]), bit)));
        high[j] = ShiftRight<2>(high[j]);
      }
    }
  }
};

struct CodecQ6_K {
  using Block = BlockQ6_K;
  using Dot = DotSixBits;
  using Panel = PanelBlock<Dot, 2, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    Bytes scales[4];
    LoadRows16(block + offsetof(Block, scales), stride, scales);
    // The half is the upper two of the block's last four bytes.
    const F32 scale = HalfFloat<1>(LoadRows4(block + sizeof(Block) - 4, stride));
    for (size_t i = 0; i < 4; ++i) UnpackSignedScales(scale, scales[i], out + 2 * i);
    const Bytes upper = SplatByte(48);
    for (size_t half = 0; half < 2; ++half) {
      Bytes low[2 * kGroups], high[kGroups];
      LoadRows32(block + 64 * half, stride, low);
      LoadRows32(block + 64 * half + 32, stride, low + kGroups);
      LoadRows32(block + offsetof(Block, high) + 32 * half, stride, high);
      Panel* four = out + 4 * half;
      const auto put = [&](size_t b, size_t j, Bytes nibbles, Bytes bits) {
        StoreBytes(four[b].bytes[j], Or(nibbles, And(bits, upper)));
      };
      for (size_t j = 0; j < kGroups; ++j) {
        put(0, j, LowNibbles(low[j]), ShiftLeft<4>(high[j]));
        put(1, j, LowNibbles(low[j + kGroups]), ShiftLeft<2>(high[j]));
        put(2, j, HighNibbles(low[j]), high[j]);
        put(3, j, HighNibbles(low[j + kGroups]), ShiftRight<2>(high[j]));
      }
    }
  }
};

}  // namespace
}  // namespace pygrok
