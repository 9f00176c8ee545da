#include "model/layer_runner.h"

#include <algorithm>
#include <numeric>

#include "kernels/registry.h"
#include "model/attention.h"
#include "model/kv_cache.h"
#include "util/cpus.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr size_t kRows = 512;  // at a time, which bounds the prepared activations

}  // namespace

LayerRunner::LayerRunner(const Config& config, int threads, const std::string& isa)
    : config_(config),
      kernels_(SelectTable(isa)),
      ledger_(std::make_shared<MemoryLedger>(0)),
      pool_(threads == 0 ? AvailableCpus() : threads),
      compute_(kernels_, pool_, ledger_.get(), Precision::kInt24),
      input_(kernels_, pool_, ledger_.get()),
      up_(ledger_.get()) {}

void LayerRunner::RequireRunnable(TensorType type) const {
  if (kernels_.of(type).matmul != nullptr) return;
  throw ModelError(std::string("tensors of type ") + InfoOf(type).name +
                   " cannot be calibrated: the engine does not run them");
}

void LayerRunner::Multiply(const Matrix& m, const float* x, size_t n, float* out) {
  for (size_t first = 0; first < n; first += kRows) {
    const size_t count = std::min(kRows, n - first);
    input_.Set(x + first * m.columns, count, m.columns);
    compute_.Matmul({{&m, input_.In(compute_.FormOf(m, count)), count, out + first * m.rows}});
  }
}

void LayerRunner::Gate(const Matrix& gate, const Matrix& up, const float* x, size_t n, float* out) {
  const size_t width = gate.rows;
  float* const lifted = up_.Get(std::min(kRows, n) * width);
  for (size_t first = 0; first < n; first += kRows) {
    const size_t count = std::min(kRows, n - first);
    float* const to = out + first * width;
    input_.Set(x + first * gate.columns, count, gate.columns);
    compute_.Matmul({{&gate, input_.In(compute_.FormOf(gate, count)), count, to},
                     {&up, input_.In(compute_.FormOf(up, count)), count, lifted}});
    compute_.ForRows(count, 8 * width, [&](size_t i) {
      kernels_.gelu_mul(to + i * width, lifted + i * width, width, to + i * width);
    });
  }
}

void LayerRunner::Attend(const Matrix& q, const Matrix& k, const Matrix& v, const float* x,
                         const std::vector<size_t>& lengths, float* out) {
  const KvLayout layout = {
      .type = KvType::kF32, .layers = 1, .kv_heads = config_.kv_heads, .head_size = config_.head_size};
  Attention attention(config_, compute_);
  RotaryTable rotary(ledger_.get());
  Buffer<float> queries(ledger_.get());
  Buffer<float> keys(ledger_.get());
  Buffer<float> values(ledger_.get());
  for (const size_t length : lengths) {
    KvCache cache(layout, ledger_);
    cache.Reserve(length);
    for (size_t first = 0; first < length; first += kRows) {
      const size_t n = std::min(kRows, length - first);
      const std::vector<Segment> segments = {
          {.cache = &cache, .first_row = 0, .rows = n, .first_position = first}};
      rotary.Set(segments, config_.head_size, config_.rope_base);
      float* const query = queries.Get(n * config_.q_width());
      float* const key = keys.Get(n * config_.kv_width());
      float* const value = values.Get(n * config_.kv_width());
      input_.Set(x, n, q.columns);
      compute_.Matmul({{&q, input_.In(compute_.FormOf(q, n)), n, query},
                       {&k, input_.In(compute_.FormOf(k, n)), n, key},
                       {&v, input_.In(compute_.FormOf(v, n)), n, value}});
      attention.Store(0, segments, rotary, key, value);
      std::vector<size_t> rows(n);
      std::iota(rows.begin(), rows.end(), size_t{0});
      attention.Attend(0, segments, rows, rotary, query, out);
      x += n * q.columns;
      out += n * config_.q_width();
    }
  }
}

void LayerRunner::Norm(const float* x, const float* scale, size_t n, size_t width, float* out) {
  compute_.ForRows(n, 4 * width, [&](size_t t) {
    kernels_.rms_norm(x + t * width, scale, width, config_.rms_eps, out + t * width);
  });
}

}  // namespace pygrok
