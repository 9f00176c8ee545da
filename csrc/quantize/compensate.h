// Error-compensated rounding of whole matrices: GPTQ (arXiv 2210.17323), which is LDLQ of QuIP (2307.13304).
#pragma once

#include <cstddef>

#include "quantize/codec.h"
#include "util/thread_pool.h"

namespace pygrok {

// Rounds a matrix so that sum over rows of (x - q) H (x - q)^T is small: column after column, the error of
// each is made up for by the columns that follow, as far as H allows.
struct CompensateMatrix {
  const float* x;  // [rows][columns]
  size_t rows;
  size_t columns;
  // [columns / span][span][span]: U of each diagonal block of H, its inverse being U^T U; only j >= i is
  // read. One span over all columns is the exact method; less ignores what blocks have to do with each other.
  const float* factor;
  size_t span;
};

// Rows of RowBytes(codec.type, columns) bytes each to `out`, the same for any number of threads and on every
// processor. Throws ModelError if the type cannot be compensated or a value does not fit it,
// std::invalid_argument if columns do not divide into spans and spans into blocks.
void CompensateRows(ThreadPool& pool, const CompensateMatrix& matrix, const Codec& codec, std::byte* out);

}  // namespace pygrok
