// Quantized weight blocks as they lie in a GGUF file (little-endian, 2-byte aligned at best).
// Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the type names' own definitions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pygrok {

inline constexpr size_t kBlockValues = 32;  // of the plain block types, and of an activation block

// value[i] = scale * (nibble[i] - 8); byte j holds values j (low nibble) and j + 16 (high nibble).
struct BlockQ4_0 {
  uint16_t scale;  // IEEE half
  uint8_t nibbles[kBlockValues / 2];
};
static_assert(sizeof(BlockQ4_0) == 18);

// value[i] = scale * values[i]
struct BlockQ8_0 {
  uint16_t scale;  // IEEE half
  int8_t values[kBlockValues];
};
static_assert(sizeof(BlockQ8_0) == 34);

}  // namespace pygrok
