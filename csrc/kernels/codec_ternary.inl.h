// Ternary weight types. Include after codec_k.inl.h.
#pragma once

#include "kernels/blocks.h"

namespace pygrok {
namespace {

struct CodecTQ1_0 {
  using Block = BlockTQ1_0;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  // Multiplied by 3^place, the byte's fraction of 256 begins with the trit of that place: puts the present
  // trit and brings up the next.
  static Bytes UnpackTrits(Bytes rest, uint8_t* bytes) {
    StoreBytes(bytes, Dot::Pack(Trits(rest)));
    return AddBytes(rest, AddBytes(rest, rest));
  }
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    // The half is the upper two of the block's last four bytes.
    const F32 scale = HalfFloat<1>(LoadRows4(block + sizeof(Block) - 4, stride));
    for (size_t g = 0; g < kSuperBlocks; ++g) Store(out[g].scales[0], scale);
    Bytes rest[12];
    LoadRows32(block, stride, rest);
    LoadRows16(block + 32, stride, rest + 8);
    for (size_t j = 0; j < 8; ++j) {
      for (size_t place = 0; place < 5; ++place) rest[j] = UnpackTrits(rest[j], out[place].bytes[j]);
    }
    for (size_t j = 0; j < 4; ++j) {
      for (size_t place = 0; place < 5; ++place) {
        rest[8 + j] = UnpackTrits(rest[8 + j], out[5 + place / 2].bytes[place % 2 * 4 + j]);
      }
    }
    Bytes last = LoadRows4(block + offsetof(Block, last), stride);
    for (size_t place = 0; place < 4; ++place) last = UnpackTrits(last, out[7].bytes[4 + place]);
  }
};

struct CodecTQ2_0 {
  using Block = BlockTQ2_0;
  using Dot = DotSigned;
  using Panel = PanelBlock<Dot, 1, false>;
  static constexpr size_t kValues = 256;
  static void Unpack(const std::byte* block, size_t stride, Panel* out) {
    // The half is the upper two of the block's last four bytes.
    const F32 scale = HalfFloat<1>(LoadRows4(block + sizeof(Block) - 4, stride));
    for (size_t g = 0; g < kSuperBlocks; ++g) Store(out[g].scales[0], scale);
    const Bytes offset = SplatByte(1);
    for (size_t half = 0; half < 2; ++half) {
      ForPairs(block + offsetof(Block, codes) + 32 * half, stride, [&](size_t b, size_t j, Bytes code) {
        StoreBytes(out[4 * half + b].bytes[j], Dot::Pack(SubBytes(code, offset)));
      });
    }
  }
};

}  // namespace
}  // namespace pygrok
