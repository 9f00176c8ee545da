// Codebook weight types, and IQ4_XS. Include after codec.inl.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace pygrok {
namespace {

// values[i] = magnitudes[i], negative where bit i of `signs` is set. Magnitudes are above 0, so that adding
// one to the complement of each carries into no other byte.
inline void PutSigned(uint64_t magnitudes, uint8_t signs, int8_t* values) {
  uint64_t mask;
  __builtin_memcpy(&mask, kSignMasks[signs], sizeof mask);
  magnitudes = (magnitudes ^ mask) + (mask & 0x0101010101010101u);
  __builtin_memcpy(values, &magnitudes, sizeof magnitudes);
}

inline uint64_t Codeword8(const uint8_t row[8]) {
  uint64_t word;
  __builtin_memcpy(&word, row, sizeof word);
  return word;
}
inline uint64_t Codewords4(const uint8_t first[4], const uint8_t second[4]) {
  uint32_t a, b;
  __builtin_memcpy(&a, first, sizeof a);
  __builtin_memcpy(&b, second, sizeof b);
  return uint64_t{b} << 32 | a;
}

// (sub-scale + 1/2) / 4, rounded as the format defines it: from the left.
inline float QuarterScale(float scale, int code) { return scale * (0.5f + static_cast<float>(code)) * 0.25f; }

struct CodecIQ4_XS {
  using Block = BlockIQ4_XS;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < kSuperBlocks; ++g) {
      ExpandTable(block.nibbles + g * 16, kIq4Values, out->values + g * 32);
      const int low = block.scales_low[g / 2] >> (g % 2 * 4) & 15;
      const int high = block.scales_high >> (2 * g) & 3;
      out->scales[g] = scale * static_cast<float>((low | high << 4) - 32);
    }
  }
  using Panel = PanelBlock<Dot, 1, kMinima>;
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
  static constexpr size_t kValues = 256, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 8; ++g) {
      uint32_t word;
      __builtin_memcpy(&word, block.groups[g] + 4, sizeof word);
      for (size_t i = 0; i < 4; ++i) {
        PutSigned(Codeword8(kIq2XxsGrid[block.groups[g][i]]), kIqSigns[word >> (7 * i) & 127],
                  out->values + g * 32 + i * 8);
      }
      out->scales[g] = QuarterScale(scale, static_cast<int>(word >> 28));
    }
  }
};

struct CodecIQ2_XS {
  using Block = BlockIQ2_XS;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 16;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    for (size_t i = 0; i < 32; ++i) {
      const uint16_t code = block.codes[i];
      PutSigned(Codeword8(kIq2XsGrid[code & 511]), kIqSigns[code >> 9], out->values + i * 8);
    }
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 16; ++g) {
      out->scales[g] = QuarterScale(scale, block.scales[g / 2] >> (g % 2 * 4) & 15);
    }
  }
};

struct CodecIQ2_S {
  using Block = BlockIQ2_S;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 16;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    for (size_t i = 0; i < 32; ++i) {
      const size_t code = block.codes[i] | (block.high[i / 4] >> (i % 4 * 2) & 3u) << 8;
      PutSigned(Codeword8(kIq2SGrid[code]), block.signs[i], out->values + i * 8);
    }
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 16; ++g) {
      out->scales[g] = QuarterScale(scale, block.scales[g / 2] >> (g % 2 * 4) & 15);
    }
  }
};

struct CodecIQ3_XXS {
  using Block = BlockIQ3_XXS;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 8; ++g) {
      uint32_t word;
      __builtin_memcpy(&word, block.signs[g], sizeof word);
      for (size_t i = 0; i < 4; ++i) {
        const uint8_t* codes = block.codes + g * 8 + i * 2;
        PutSigned(Codewords4(kIq3XxsGrid[codes[0]], kIq3XxsGrid[codes[1]]), kIqSigns[word >> (7 * i) & 127],
                  out->values + g * 32 + i * 8);
      }
      out->scales[g] = scale * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
    }
  }
};

struct CodecIQ3_S {
  using Block = BlockIQ3_S;
  using Dot = DotSigned;
  static constexpr size_t kValues = 256, kGroup = 32;
  static constexpr bool kMinima = false;
  static void Expand(const Block& block, Expanded* out) {
    for (size_t i = 0; i < 32; ++i) {
      const unsigned high = block.high[i / 4] >> (i % 4 * 2);
      const size_t first = block.codes[2 * i] | (high & 1) << 8;
      const size_t second = block.codes[2 * i + 1] | (high & 2) << 7;
      PutSigned(Codewords4(kIq3SGrid[first], kIq3SGrid[second]), block.signs[i], out->values + i * 8);
    }
    const float scale = LoadHalf(&block.scale);
    for (size_t g = 0; g < 8; ++g) {
      const int code = block.scales[g / 2] >> (g % 2 * 4) & 15;
      out->scales[g] = scale * static_cast<float>(1 + 2 * code);
    }
  }
};

// values = 8 * codeword + delta, delta 1 or -1: eighths, so that they are whole.
inline void PutEighths(const int8_t codeword[8], int delta, int8_t* values) {
  for (size_t i = 0; i < 8; ++i) values[i] = static_cast<int8_t>(codeword[i] * 8 + delta);
}
// Exact: a half divided by 8 is no subnormal float.
inline float EighthScale(float scale, int code) { return scale * static_cast<float>(2 * code + 1) * 0.125f; }

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
};

}  // namespace
}  // namespace pygrok
