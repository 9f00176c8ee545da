#include "model/forward.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "model/expert_paging.h"

namespace pygrok {
namespace {

// With more rows nearly all experts are needed, whatever each row's router says.
constexpr size_t kForeseenRows = 32;

// Moves the wanted rows of x [.][width] to its front; `rows` rises.
void Compact(const std::vector<size_t>& rows, size_t width, float* x) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memmove(x + i * width, x + rows[i] * width, width * sizeof(float));
  }
}

}  // namespace

ForwardPass::ForwardPass(const Config& config, const Weights& weights, Compute& compute, ExpertPaging& paging)
    : config_(config),
      weights_(weights),
      compute_(compute),
      paging_(paging),
      attention_(config, compute),
      experts_(config, compute, paging),
      rotary_(compute.ledger()),
      input_(compute.kernels(), compute.pool(), compute.ledger()),
      h_(compute.ledger()),
      normed_(compute.ledger()),
      foreseen_(compute.ledger()),
      q_(compute.ledger()),
      k_(compute.ledger()),
      v_(compute.ledger()),
      mixed_(compute.ledger()),
      branch_(compute.ledger()),
      logits_(compute.ledger()) {}

void ForwardPass::Run(const std::vector<int32_t>& ids, const std::vector<Segment>& segments,
                      const std::vector<RowOutput>& outputs, const Attendants& with) {
  const size_t n = ids.size();
  const auto& poll = *with.poll;
  InputObserver* const observer = with.observer;
  paging_.Begin(n);
  float* h = h_.Get(n * config_.embedding);
  Embed(ids, h);
  rotary_.Set(segments, config_.head_size, config_.rope_base);

  std::vector<size_t> wanted;
  for (const RowOutput& output : outputs) wanted.push_back(output.row);
  LookAhead(0, std::min<size_t>(1, paging_.lookahead()), h, n, wanted);
  std::vector<size_t> rows(n);
  std::iota(rows.begin(), rows.end(), size_t{0});
  for (size_t i = 0; i < config_.layers; ++i) {
    poll();
    if (i + 1 == config_.layers && observer == nullptr) rows = wanted;
    Layer(i, segments, rows, n, wanted, h, with);
  }
  if (observer != nullptr) {
    float* normed = normed_.Get(n * config_.embedding);
    NormRows(h, weights_.output_norm, n, normed);
    Report(observer, MatrixInput::kOutput, 0, normed, n, config_.embedding);
    Compact(wanted, config_.embedding, h);
  }
  Output(outputs, h, poll);
}

void ForwardPass::Embed(const std::vector<int32_t>& ids, float* h) {
  const Matrix& e = weights_.embedding;
  const auto dequantize = compute_.kernels().of(e.type).dequantize;
  compute_.ForRows(ids.size(), e.columns, [&](size_t t) {
    float* to = h + t * e.columns;
    dequantize(e.data + static_cast<size_t>(ids[t]) * e.row_bytes, e.columns, to);
    for (size_t i = 0; i < e.columns; ++i) to[i] *= config_.embedding_multiplier;
  });
}

void ForwardPass::LookAhead(size_t first, size_t last, const float* h, size_t n,
                            const std::vector<size_t>& wanted) {
  const size_t embedding = config_.embedding;
  for (size_t index = first; index < std::min(last, config_.layers); ++index) {
    const bool some = index + 1 == config_.layers && wanted.size() < n;
    const size_t rows = some ? wanted.size() : n;
    if (rows > kForeseenRows) {
      std::vector<size_t> all(config_.experts);
      std::iota(all.begin(), all.end(), size_t{0});
      paging_.Predict(index, all, false);
    } else if (rows > 0) {
      float* x = foreseen_.Get(rows * embedding);
      for (size_t i = 0; i < rows; ++i) {
        const float* from = h + (some ? wanted[i] : i) * embedding;
        NormRows(from, weights_.layers[index].expert_norm, 1, x + i * embedding);
      }
      paging_.Predict(index, experts_.Foresee(weights_.layers[index], x, rows), true);
    }
  }
}

void ForwardPass::Layer(size_t index, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
                        size_t all_rows, const std::vector<size_t>& wanted, float* h,
                        const Attendants& with) {
  InputObserver* const observer = with.observer;
  const LayerWeights& layer = weights_.layers[index];
  const size_t embedding = config_.embedding;

  // Keys and values of every row.
  float* normed = normed_.Get(all_rows * embedding);
  NormRows(h, layer.attention_norm, all_rows, normed);
  Report(observer, MatrixInput::kAttention, index, normed, all_rows, embedding);
  input_.Set(normed, all_rows, embedding);
  float* k = k_.Get(all_rows * config_.kv_width());
  float* v = v_.Get(all_rows * config_.kv_width());
  float* q = q_.Get(all_rows * config_.q_width());
  const MatmulJob keys{&layer.k, input_.In(compute_.FormOf(layer.k, all_rows)), all_rows, k};
  const MatmulJob values{&layer.v, input_.In(compute_.FormOf(layer.v, all_rows)), all_rows, v};
  const size_t n = rows.size();
  if (n == all_rows) {
    compute_.Matmul({{&layer.q, input_.In(compute_.FormOf(layer.q, n)), n, q}, keys, values});
    attention_.Store(index, segments, rotary_, k, v);
  } else {
    // The last layer: nothing but the wanted rows is read from here on.
    compute_.Matmul({keys, values});
    attention_.Store(index, segments, rotary_, k, v);
    if (n == 0) return;
    Compact(rows, embedding, h);
    Compact(rows, embedding, normed);
    input_.Set(normed, n, embedding);
    compute_.Matmul({{&layer.q, input_.In(compute_.FormOf(layer.q, n)), n, q}});
  }

  float* mixed = mixed_.Get(n * config_.q_width());
  attention_.Attend(index, segments, rows, rotary_, q, mixed);
  Report(observer, MatrixInput::kAttentionOutput, index, mixed, n, config_.q_width());
  input_.Set(mixed, n, config_.q_width());
  float* branch = branch_.Get(n * embedding);
  compute_.Matmul(
      {{&layer.attention_output, input_.In(compute_.FormOf(layer.attention_output, n)), n, branch}});
  AddNormed(branch, layer.attention_output_norm, n, h);

  LookAhead(index + 1, index + 1 + paging_.lookahead(), h, n, wanted);
  NormRows(h, layer.expert_norm, n, normed);
  experts_.Forward(index, layer, normed, rows, branch, with);
  AddNormed(branch, layer.output_norm, n, h);
}

void ForwardPass::Output(const std::vector<RowOutput>& outputs, const float* h,
                         const std::function<void()>& poll) {
  const size_t embedding = config_.embedding;
  const size_t vocab = config_.vocab;
  for (size_t first = 0; first < outputs.size(); first += kLogitRows) {
    poll();
    const size_t n = std::min(kLogitRows, outputs.size() - first);
    float* normed = normed_.Get(n * embedding);
    NormRows(h + first * embedding, weights_.output_norm, n, normed);
    input_.Set(normed, n, embedding);
    float* logits = logits_.Get(n * vocab);
    compute_.Matmul({{&weights_.output, input_.In(compute_.FormOf(weights_.output, n)), n, logits}});
    compute_.ForRows(n, vocab, [&](size_t i) {
      float* row = logits + i * vocab;
      const RowOutput& output = outputs[first + i];
      for (size_t j = 0; j < vocab; ++j) row[j] *= config_.output_multiplier;
      if (output.logits != nullptr) std::memcpy(output.logits, row, vocab * sizeof(float));
      if (output.log_probability != nullptr) {
        *output.log_probability =
            static_cast<float>(row[output.target] - compute_.kernels().log_sum_exp(row, vocab));
      }
    });
  }
}

void ForwardPass::Report(InputObserver* observer, MatrixInput input, size_t layer, const float* x, size_t n,
                         size_t k) {
  if (observer == nullptr) return;
  observer->Observe({.input = input, .layer = layer, .expert = 0, .n = n, .k = k, .x = x}, compute_.pool());
}

void ForwardPass::NormRows(const float* x, const float* scale, size_t n, float* out) {
  const size_t width = config_.embedding;
  compute_.ForRows(n, 4 * width, [&](size_t t) {
    compute_.kernels().rms_norm(x + t * width, scale, width, config_.rms_eps, out + t * width);
  });
}

void ForwardPass::AddNormed(float* x, const float* scale, size_t n, float* h) {
  const size_t width = config_.embedding;
  compute_.ForRows(n, 4 * width, [&](size_t t) {
    compute_.kernels().rms_norm(x + t * width, scale, width, config_.rms_eps, x + t * width);
    for (size_t i = 0; i < width; ++i) h[t * width + i] += x[t * width + i];
  });
}

}  // namespace pygrok
