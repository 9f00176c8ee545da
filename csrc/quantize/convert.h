// From a tensor as a checkpoint stores it to rows of blocks, without a float copy of it.
#pragma once

#include <cstddef>

#include "io/tensor_type.h"
#include "util/thread_pool.h"

namespace pygrok {

enum class SourceType { kInt8, kF32, kBf16 };

size_t BytesOf(SourceType type);

// One matrix in a mapped file: rows x columns, row-major, at any alignment.
struct SourceMatrix {
  const std::byte* data;
  SourceType type;
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

// Rows [first_row, first_row + rows) of the result, each RowBytes(type, out_columns()), to `out`.
// Q8_0 keeps the int8 values of a source whose scale groups cover whole blocks as they are.
// The same bytes for any number of threads. Throws std::invalid_argument for a range or geometry that does
// not fit, ModelError when a value does not fit the type or is not finite.
void ConvertRows(ThreadPool& pool, const SourceMatrix& source, TensorType type, size_t first_row, size_t rows,
                 std::byte* out);

}  // namespace pygrok
