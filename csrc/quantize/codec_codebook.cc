// The types whose codes are codewords of several values: IQ2_* and IQ3_*.
#include "kernels/codebooks.h"
#include "quantize/codec_codebook_block.inl.h"

namespace pygrok {
namespace {

constexpr auto kBook2Xxs = MakeCodebook<3>(kIq2XxsGrid);
constexpr auto kBook2Xs = MakeCodebook<3>(kIq2XsGrid);
constexpr auto kBook2S = MakeCodebook<3>(kIq2SGrid);
constexpr auto kBook3Xxs = MakeCodebook<8>(kIq3XxsGrid);
constexpr auto kBook3S = MakeCodebook<8>(kIq3SGrid);

constexpr uint32_t First(uint32_t code) { return code & 0xfffu; }
constexpr uint32_t Second(uint32_t code) { return code >> 12 & 0xfffu; }
constexpr uint32_t Signs(uint32_t code) { return code >> 24; }
// Of eight signs with an even number of bits set, these tell the last.
constexpr uint32_t SevenSigns(uint32_t code) { return Signs(code) & 0x7fu; }

static_assert([] {
  for (uint32_t i = 0; i < 128; ++i) {
    if ((kIqSigns[i] & 0x7fu) != i || __builtin_popcount(kIqSigns[i]) % 2 != 0) return false;
  }
  return true;
}());

// Four groups' signs below the four bits of their scale.
void WriteSignsAndScale(const uint32_t* codes, uint8_t k, uint8_t* out) {
  uint32_t word = static_cast<uint32_t>(k) << 28;
  for (size_t g = 0; g < 4; ++g) word |= SevenSigns(codes[g]) << (7 * g);
  std::memcpy(out, &word, sizeof(word));
}

uint8_t Nibbles(uint32_t low, uint32_t high) { return static_cast<uint8_t>(low | high << 4); }

template <size_t kCount>
void WriteScales(const uint8_t* k, uint8_t* out) {
  for (size_t b = 0; b < kCount; b += 2) *out++ = Nibbles(k[b], k[b + 1]);
}

// What the lower 8 bits of the indices leave over, kBits each. Returns the end.
template <size_t kCount, size_t kBits>
uint8_t* WriteHighBits(const uint32_t* codes, uint8_t* out) {
  constexpr size_t kInByte = 8 / kBits;
  for (size_t g = 0; g < kCount; g += kInByte) {
    uint32_t high = 0;
    for (size_t i = 0; i < kInByte; ++i) high |= First(codes[g + i]) >> 8 << kBits * i;
    *out++ = static_cast<uint8_t>(high);
  }
  return out;
}

// For each 32 values: 4 indices, then signs and scale.
struct Iq2Xxs {
  static constexpr TensorType kType = TensorType::kIQ2_XXS;
  static constexpr const auto& kBook = kBook2Xxs;
  static constexpr size_t kWordsOfGroup = 1;
  static constexpr bool kEvenSigns = true;
  static constexpr size_t kSubBlock = 32;
  static constexpr float kUnit = 0.125f;
  static constexpr size_t kBlockBytes = 66;

  static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out) {
    for (size_t b = 0; b < 8; ++b, codes += 4, out += 8) {
      for (size_t g = 0; g < 4; ++g) out[g] = static_cast<uint8_t>(First(codes[g]));
      WriteSignsAndScale(codes, k[b], out + 4);
    }
  }
};

// 32 words of index and signs, then the scales.
struct Iq2Xs {
  static constexpr TensorType kType = TensorType::kIQ2_XS;
  static constexpr const auto& kBook = kBook2Xs;
  static constexpr size_t kWordsOfGroup = 1;
  static constexpr bool kEvenSigns = true;
  static constexpr size_t kSubBlock = 16;
  static constexpr float kUnit = 0.125f;
  static constexpr size_t kBlockBytes = 74;

  static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out) {
    for (size_t g = 0; g < 32; ++g, out += 2) {
      const uint16_t word = static_cast<uint16_t>(First(codes[g]) | SevenSigns(codes[g]) << 9);
      std::memcpy(out, &word, sizeof(word));
    }
    WriteScales<16>(k, out);
  }
};

// The lower 8 bits of the indices, the signs, the upper 2 bits of the indices, the scales.
struct Iq2S {
  static constexpr TensorType kType = TensorType::kIQ2_S;
  static constexpr const auto& kBook = kBook2S;
  static constexpr size_t kWordsOfGroup = 1;
  static constexpr bool kEvenSigns = false;
  static constexpr size_t kSubBlock = 16;
  static constexpr float kUnit = 0.125f;
  static constexpr size_t kBlockBytes = 82;

  static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out) {
    for (size_t g = 0; g < 32; ++g) *out++ = static_cast<uint8_t>(First(codes[g]));
    for (size_t g = 0; g < 32; ++g) *out++ = static_cast<uint8_t>(Signs(codes[g]));
    out = WriteHighBits<32, 2>(codes, out);
    WriteScales<16>(k, out);
  }
};

// 64 indices, then signs and scale of each 32 values.
struct Iq3Xxs {
  static constexpr TensorType kType = TensorType::kIQ3_XXS;
  static constexpr const auto& kBook = kBook3Xxs;
  static constexpr size_t kWordsOfGroup = 2;
  static constexpr bool kEvenSigns = true;
  static constexpr size_t kSubBlock = 32;
  static constexpr float kUnit = 0.25f;
  static constexpr size_t kBlockBytes = 98;

  static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out) {
    for (size_t g = 0; g < 32; ++g) {
      *out++ = static_cast<uint8_t>(First(codes[g]));
      *out++ = static_cast<uint8_t>(Second(codes[g]));
    }
    for (size_t b = 0; b < 8; ++b, codes += 4, out += 4) WriteSignsAndScale(codes, k[b], out);
  }
};

// The lower 8 bits of the indices, the ninth bits, the signs, the scales.
struct Iq3S {
  static constexpr TensorType kType = TensorType::kIQ3_S;
  static constexpr const auto& kBook = kBook3S;
  static constexpr size_t kWordsOfGroup = 1;
  static constexpr bool kEvenSigns = false;
  static constexpr size_t kSubBlock = 32;
  static constexpr float kUnit = 1.0f;
  static constexpr size_t kBlockBytes = 110;

  static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out) {
    for (size_t g = 0; g < 64; ++g) *out++ = static_cast<uint8_t>(First(codes[g]));
    out = WriteHighBits<64, 1>(codes, out);
    for (size_t g = 0; g < 64; g += 2) *out++ = Nibbles(Signs(codes[g]), Signs(codes[g + 1]));
    WriteScales<8>(k, out);
  }
};

}  // namespace

// Not CodecsFor: a block type belongs to one instruction set here.
std::span<const Codec> CodebookCodecs(CodecIsa isa) {
#define PYGROK_CODEBOOK_TYPES(Isa)                                                 \
  CodebookBlock<Iq2Xxs, Isa>, CodebookBlock<Iq2Xs, Isa>, CodebookBlock<Iq2S, Isa>, \
      CodebookBlock<Iq3Xxs, Isa>, CodebookBlock<Iq3S, Isa>
#if defined(__x86_64__)
  if (isa == CodecIsa::kAvx512) return avx512::kCodecs<PYGROK_CODEBOOK_TYPES(CodebookAvx512)>;
  if (isa == CodecIsa::kAvx2) return avx2::kCodecs<PYGROK_CODEBOOK_TYPES(CodebookAvx2)>;
#else
  static_cast<void>(isa);
#endif
  return baseline::kCodecs<PYGROK_CODEBOOK_TYPES(CodebookBaseline)>;
}

}  // namespace pygrok
