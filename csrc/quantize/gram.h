// Sums of outer products of activations: the second-order statistics of error-compensated rounding.
#pragma once

#include <cstddef>

#include "util/thread_pool.h"

namespace pygrok {

// out[a * k_y + b] += sum over t of weights[t] * x[t * stride_x + a] * y[t * stride_y + b]
struct GramArgs {
  const float* x;  // [n] rows of k_x values, stride_x apart
  size_t stride_x;
  size_t k_x;
  const float* y;  // [n] rows of k_y values, stride_y apart; may be x, whose sums are symmetric
  size_t stride_y;
  size_t k_y;
  const float* weights;  // [n], or nullptr: all 1
  size_t n;
  double* out;  // [k_x][k_y]
};

// Products and sums of up to 128 rows in float32, those sums in float64, in one order for any number of
// threads and on every processor.
void AddGram(ThreadPool& pool, const GramArgs& args);

}  // namespace pygrok
