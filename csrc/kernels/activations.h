// How prepared activations lie in memory (ActivationFormat).
//   kF32:  float[k]
//   kBf16: uint16_t[k]
//   kBf16x3: uint16_t[k / 32][3][32]
//   kQ8:   ActivationBlock[k / 32]
// Rows are padded to 64 bytes; the padding is never read.
//
// matmul_many takes the rows of n tokens in pieces of 64 bytes, the same piece of all tokens together:
// [pieces of a row][n][64 bytes]. A tile of tokens is then one run of memory, not a line in each of many
// pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blocks.h"

namespace pygrok {

// value[i] = scale * values[i], |values[i]| <= 127. Everything that a dot product needs of a block is
// together in a cache line, so a kernel walks one pointer per token. The integer sums correct for weights
// stored with an offset: adding minus_8_sum to the dot product of unsigned nibbles gives that of nibble - 8,
// and minus_128_sum does so for bytes + 128. The float sums multiply the minima of weights. Parts 0 and 1 are
// the first and the last 16 values, part 2 is all of them.
struct ActivationBlock {
  int8_t values[kBlockValues];
  float scale;
  int32_t minus_8_sum;
  int32_t minus_128_sum[3];
  float minus_sum[3];  // scale * -sum(values)
};
static_assert(sizeof(ActivationBlock) == 64);
inline constexpr size_t kWhole = 2;  // the part that is all of a block
inline constexpr size_t kPieceBytes = 64;

// Blocks whose largest magnitude is below this count as zero: its inverse would overflow.
inline constexpr float kSmallestActivation = 0x1p-100f;

}  // namespace pygrok
