// What goes into the matrices of a forward pass, reported while it runs: for importance matrices, calibration
// and research.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/experts.h"
#include "util/thread_pool.h"

namespace pygrok {

// Activations that enter products. Matrices that share their input are reported once.
enum class MatrixInput : uint8_t {
  kAttention,        // of q, k and v: [embedding]
  kAttentionOutput,  // the heads' outputs side by side: [q_width]
  kRouter,           // [embedding]
  kExpert,           // of an expert's gate and up, the rows routed to it: [embedding]
  kExpertHidden,     // of an expert's down, gelu(gate) * up: [expert_width]
  kOutput,           // of the output matrix, every row's normed last state: [embedding]
};
inline constexpr size_t kMatrixInputs = 6;

struct Observation {
  MatrixInput input;
  size_t layer;   // 0 for kOutput
  size_t expert;  // of kExpert and kExpertHidden, else 0
  size_t n;       // rows, in the batch's order
  size_t k;       // values a row
  const float* x;
  const Route* routes = nullptr;  // [n] of kExpert and kExpertHidden, with the router's probabilities
  bool scattered = false;         // row i lies at routes[i].row, not at i

  const float* Row(size_t i) const { return x + (scattered ? routes[i].row : i) * k; }
};

class InputObserver {
 public:
  virtual ~InputObserver() = default;
  // Called by the thread that runs the forward, in the order of computation; each expert of a layer at most
  // once a batch. The rows are gone afterwards. What it throws ends the forward. `pool` is free for use.
  virtual void Observe(const Observation& observation, ThreadPool& pool) = 0;
};

// The GGUF tensors that an input is multiplied with, as converters name them today. tied: the embedding is
// the output matrix.
std::vector<std::string> NamesOf(MatrixInput input, size_t layer, bool tied);

}  // namespace pygrok
