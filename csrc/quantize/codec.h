// Encoders: float rows to the blocks of a tensor type. One entry a type; a further type is one more entry.
#pragma once

#include <cstddef>

#include "io/tensor_type.h"

namespace pygrok {

// Encoders work on kGroupRows rows at a time, interleaved: value i of row r stands at x[i * kGroupRows + r].
inline constexpr size_t kGroupRows = 16;

struct Codec {
  TensorType type;
  float max_abs;  // the largest magnitude that the type holds; larger values and NaN must not reach `encode`
  // n values of each row, a multiple of the type's block size, to n / block_size blocks at out + r * stride
  // for the first `rows` rows. The bytes of a block depend on its values alone, on every processor.
  void (*encode)(const float* x, size_t n, size_t rows, std::byte* out, size_t stride);
};

// Throws ModelError, listing the choices, for a type that cannot be written.
const Codec& CodecOf(TensorType type);

// True if every one of n values, a multiple of kGroupRows, lies within +-limit: false for NaN and infinity
// too.
bool AllWithin(const float* x, size_t n, float limit);

// Throws the ModelError that says that some value does not fit the type, or is not a number.
[[noreturn]] void ThrowDoesNotFit(const Codec& codec);

}  // namespace pygrok
