// From a tensor as a checkpoint stores it to rows of blocks, without a float copy of it.
#pragma once

#include <cstddef>
#include <vector>

#include "io/tensor_type.h"
#include "quantize/codec.h"
#include "util/thread_pool.h"

namespace pygrok {

enum class SourceType { kInt8, kF32, kBf16, kF16, kBlocks };

// One matrix in a mapped file: rows x columns, row-major, at any alignment.
struct SourceMatrix {
  const std::byte* data;
  SourceType type;
  TensorType blocks;  // of kBlocks: rows of GGUF blocks, never to be transposed
  size_t rows;
  size_t columns;
  // bfloat16 bits [groups][columns]: scales the values of rows g * rows / groups onwards. nullptr if
  // unscaled.
  const std::byte* scales;
  size_t groups;
  bool transpose;  // the result is the matrix turned: stored [in, out], wanted [out, in]

  size_t out_rows() const { return transpose ? columns : rows; }
  size_t out_columns() const { return transpose ? rows : columns; }
};

// Rows [first_row, first_row + rows) of the result, each RowBytes(codec.type, out_columns()), to `out`.
// importance: [out_columns()] mean squared activation of each column, >= 0, at any scale, or nullptr. Columns
// that were hardly ever active count as 1/1000 of the average column.
// Q8_0 keeps the int8 values of a source whose scale groups cover whole blocks as they are, and blocks that
// are of the wanted type already stay as they are.
// The same bytes for any number of threads. Throws std::invalid_argument for a range or geometry that does
// not fit, ModelError when a value does not fit the type or is not finite, when an importance is negative or
// not finite, and when the type needs importance and there is none.
void ConvertRows(ThreadPool& pool, const SourceMatrix& source, const Codec& codec, const float* importance,
                 size_t first_row, size_t rows, std::byte* out);

// The importance that encoders get: no zeros, average 1. Throws ModelError as above.
std::vector<float> UsableImportance(const float* importance, size_t n);

}  // namespace pygrok
