// How prepared activations lie in memory (ActivationFormat).
//   kF32:  float[k]
//   kBf16: uint16_t[k]
//   kQ8:   ActivationBlock[k / 32]
// Rows are padded to 64 bytes; the padding is never read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blocks.h"

namespace pygrok {

// value[i] = scale * values[i], |values[i]| <= 127. Everything that a dot product needs of a block is
// together, so a kernel walks one pointer per token. The sums correct for weights stored with an offset:
// adding minus_8_sum to the dot product of unsigned nibbles gives that of nibble - 8, and minus_128_sum does
// so for bytes + 128.
struct ActivationBlock {
  int8_t values[kBlockValues];
  float scale;
  int32_t minus_8_sum;
  int32_t minus_128_sum;
};
static_assert(sizeof(ActivationBlock) == 44);

// Blocks whose largest magnitude is below this count as zero: its inverse would overflow.
inline constexpr float kSmallestActivation = 0x1p-100f;

}  // namespace pygrok
