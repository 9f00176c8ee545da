// The forward pass of Grok-1 over a ragged batch.
#pragma once

#include <functional>
#include <vector>

#include "model/attention.h"
#include "model/compute.h"
#include "model/experts.h"
#include "model/kv_cache.h"
#include "model/observer.h"
#include "model/weights.h"

namespace pygrok {

inline constexpr size_t kMaxBatchRows = 512;

// Rows whose logits are held at once: 64 x 131072 floats are 32 MiB.
inline constexpr size_t kLogitRows = 64;

// What a row of the batch is computed for, besides its keys and values.
struct RowOutput {
  size_t row;
  float* logits = nullptr;           // [vocab], if wanted
  float* log_probability = nullptr;  // of the token `target` to come next, if wanted
  int32_t target = 0;
};

class ForwardPass {
 public:
  ForwardPass(const Config& config, const Weights& weights, Compute& compute, ExpertPaging& paging);

  // ids [rows] are the tokens of the segments in order; the caches have room for them. Writes keys and
  // values, and the outputs (in order of rows). The poll is called before every layer and may throw. An
  // observer sees the inputs of every row, also in the last layer, and changes no result.
  void Run(const std::vector<int32_t>& ids, const std::vector<Segment>& segments,
           const std::vector<RowOutput>& outputs, const Attendants& with);

 private:
  void Embed(const std::vector<int32_t>& ids, float* h);
  // h [all_rows][embedding] in, [rows.size()][embedding] out: only `rows` go past the keys and values.
  void Layer(size_t index, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
             size_t all_rows, const std::vector<size_t>& wanted, float* h, const Attendants& with);
  // Has the experts of layers [first, last) read that their routers choose for h [n][embedding] as it is
  // now; of the last layer those of the `wanted` rows only.
  void LookAhead(size_t first, size_t last, const float* h, size_t n, const std::vector<size_t>& wanted);
  // To the observer, if there is one.
  void Report(InputObserver* observer, MatrixInput input, size_t layer, const float* x, size_t n, size_t k);
  void Output(const std::vector<RowOutput>& outputs, const float* h, const std::function<void()>& poll);
  void NormRows(const float* x, const float* scale, size_t n, float* out);
  // h += norm(x)
  void AddNormed(float* x, const float* scale, size_t n, float* h);

  const Config& config_;
  const Weights& weights_;
  Compute& compute_;
  ExpertPaging& paging_;
  Attention attention_;
  Experts experts_;
  RotaryTable rotary_;
  Activations input_;
  Buffer<float> h_, normed_, foreseen_, q_, k_, v_, mixed_, branch_, logits_;
};

}  // namespace pygrok
