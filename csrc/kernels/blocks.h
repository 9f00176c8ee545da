// Quantized weight blocks as they lie in a GGUF file: little-endian, aligned to 2 bytes at best (MXFP4: to
// 1). Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the type names' own definitions;
// the reference for every value is dequantize in the gguf package. `half` is an IEEE half's bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pygrok {

inline constexpr size_t kBlockValues = 32;  // of the plain block types, and of an activation block
inline constexpr size_t kSuperValues = 256;

// --- blocks of 32: byte j of `nibbles` holds values j (low nibble) and j + 16 (high nibble) ---

// value = scale * (nibble - 8)
struct BlockQ4_0 {
  uint16_t scale;  // half
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// value = scale * nibble + offset
struct BlockQ4_1 {
  uint16_t scale;   // half
  uint16_t offset;  // half
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// value = scale * (nibble + 16 * bit - 16); bit i of `high` belongs to value i
struct BlockQ5_0 {
  uint16_t scale;  // half
  uint8_t high[4];
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// value = scale * (nibble + 16 * bit) + offset
struct BlockQ5_1 {
  uint16_t scale;   // half
  uint16_t offset;  // half
  uint8_t high[4];
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// value = scale * values[i]
struct BlockQ8_0 {
  uint16_t scale;  // half
  int8_t values[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// value = scale * kIq4Values[nibble]
struct BlockIQ4_NL {
  uint16_t scale;  // half
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

// value = 2^(exponent - 128) * kMxfp4Values[nibble]
struct BlockMXFP4 {
  uint8_t exponent;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// --- super-blocks of 256: two levels of scales ---

// value = scale * (sub-scale * code) - minimum * sub-minimum, sub-scale and sub-minimum the low and high
// nibble of scales[i / 16]. Codes of 2 bits: of 128 values, byte j holds values j, j + 32, j + 64, j + 96,
// lowest bits first.
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t codes[64];
  uint16_t scale;    // half
  uint16_t minimum;  // half
};
static_assert(sizeof(BlockQ2_K) == 84);

// value = scale * (sub-scale - 32) * (code + 4 * bit - 4), codes as in Q2_K; bit i / 32 of high[i % 32]
// belongs to value i. Sub-scales: 16 of 6 bits, the low four in bytes 0..7 (two each, 8 apart), the upper two
// in bytes 8..11 (four each, 4 apart).
struct BlockQ3_K {
  uint8_t high[32];
  uint8_t codes[64];
  uint8_t scales[12];
  uint16_t scale;  // half
};
static_assert(sizeof(BlockQ3_K) == 110);

// value = scale * sub-scale * nibble - minimum * sub-minimum, for 8 groups of 32. Of 64 values, byte j holds
// values j and j + 32. Scales: 6 bits each; of groups 0..3 in bytes 0..3 (minima in 4..7), of groups 4..7 the
// low four in the low (high) nibbles of bytes 8..11 and the upper two above those of groups 0..3.
struct BlockQ4_K {
  uint16_t scale;    // half
  uint16_t minimum;  // half
  uint8_t scales[12];
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As Q4_K, with a fifth bit: bit i / 32 of high[i % 32].
struct BlockQ5_K {
  uint16_t scale;    // half
  uint16_t minimum;  // half
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// value = scale * scales[i / 16] * (code - 32). Of 128 values, byte j of `low` holds the low four bits of
// values j and j + 64 (j < 64), byte j of `high` the upper two of values j, j + 32, j + 64, j + 96 (j < 32).
struct BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t scale;  // half
};
static_assert(sizeof(BlockQ6_K) == 210);

// value = scale * (sub-scale - 32) * kIq4Values[nibble], for 8 groups of 32 laid out as in IQ4_NL.
struct BlockIQ4_XS {
  uint16_t scale;         // half
  uint16_t scales_high;   // 2 bits a group
  uint8_t scales_low[4];  // 4 bits a group
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// value = scale * trit - scale; five trits a byte (the last four bytes: four), byte = ceil(sum of trit * 3^(4
// - place) * 256 / 243). Values j + 32 * place in bytes 0..31, 160 + j + 16 * place in bytes 32..47, 240 + j
// + 4 * place in `last`.
struct BlockTQ1_0 {
  uint8_t trits[48];
  uint8_t last[4];
  uint16_t scale;  // half
};
static_assert(sizeof(BlockTQ1_0) == 54);

// value = scale * (code - 1), codes as in Q2_K.
struct BlockTQ2_0 {
  uint8_t codes[64];
  uint16_t scale;  // half
};
static_assert(sizeof(BlockTQ2_0) == 66);

// --- codebook types: 8 (IQ3: 4) values together are a row of a grid, with signs ---

// Per 32 values: four bytes of grid indices, then 4 * 7 bits of signs (kIqSigns) below 4 bits of sub-scale.
// value = scale * (sub-scale + 1/2) / 4 * +-magnitude
struct BlockIQ2_XXS {
  uint16_t scale;  // half
  uint8_t groups[8][8];
};
static_assert(sizeof(BlockIQ2_XXS) == 66);

// Per 8 values: 9 bits of index, 7 of signs; per 16 a sub-scale of 4 bits, used as in IQ2_XXS.
struct BlockIQ2_XS {
  uint16_t scale;  // half
  uint16_t codes[32];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74);

// As IQ2_XS with 10 bits of index, the upper two in `high`, and 8 of signs.
struct BlockIQ2_S {
  uint16_t scale;  // half
  uint8_t codes[32];
  uint8_t signs[32];
  uint8_t high[8];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82);

// Per 4 values a byte of index; per 32 values signs and sub-scale as in IQ2_XXS.
// value = scale * (sub-scale + 1/2) / 2 * +-magnitude
struct BlockIQ3_XXS {
  uint16_t scale;  // half
  uint8_t codes[64];
  uint8_t signs[8][4];
};
static_assert(sizeof(BlockIQ3_XXS) == 98);

// Per 4 values 9 bits of index, the upper one in `high`; value = scale * (1 + 2 * sub-scale) * +-magnitude
struct BlockIQ3_S {
  uint16_t scale;  // half
  uint8_t codes[64];
  uint8_t high[8];
  uint8_t signs[32];
  uint8_t scales[4];  // 4 bits per 32 values
};
static_assert(sizeof(BlockIQ3_S) == 110);

// Per 8 values 11 bits of index, the upper three in high[i / 32], which ends in 3 bits of sub-scale and the
// sign of the delta: value = scale * (1 + 2 * sub-scale) * (kIq1Grid +- 1/8)
struct BlockIQ1_S {
  uint16_t scale;  // half
  uint8_t codes[32];
  uint16_t high[8];
};
static_assert(sizeof(BlockIQ1_S) == 50);

// As IQ1_S, with the upper bits of the index and the delta's sign in a nibble per 8 values, and sub-scales of
// 3 bits per 16; the four top nibbles of `scales` are the half.
struct BlockIQ1_M {
  uint8_t codes[32];
  uint8_t high[16];
  uint16_t scales[4];
};
static_assert(sizeof(BlockIQ1_M) == 56);

}  // namespace pygrok
