// The parts of a layer as functions on arrays, with whatever matrices the caller holds: for calibration,
// which runs a layer while its weights are being quantized one after another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/compute.h"
#include "model/config.h"

namespace pygrok {

// Numbers are those of the engine's forward with an f32 cache and three int8 per activation (Precision). Not
// for use from several threads at once.
class LayerRunner {
 public:
  // Of `config`, the sizes of attention, its multiplier, soft cap and rope base, and rms_eps are used.
  // threads: 0 = all that this process may use. isa: empty = $PYGROK_ISA or the best. Throws
  // std::invalid_argument.
  LayerRunner(const Config& config, int threads, const std::string& isa);

  const Config& config() const { return config_; }
  ThreadPool& pool() { return pool_; }

  // Throws ModelError for a type that this processor's kernels cannot multiply with.
  void RequireRunnable(TensorType type) const;

  // out[t] = m x[t] for x [n][columns], out [n][rows].
  void Multiply(const Matrix& m, const float* x, size_t n, float* out);
  // out[t] = gelu(gate x[t]) * (up x[t]) for x [n][columns], out [n][rows].
  void Gate(const Matrix& gate, const Matrix& up, const float* x, size_t n, float* out);
  // Causal attention within each of the sequences, which lie one after another: x [sum of lengths][embedding]
  // is the normed input, out [.][heads * head_size] the heads' outputs side by side.
  void Attend(const Matrix& q, const Matrix& k, const Matrix& v, const float* x,
              const std::vector<size_t>& lengths, float* out);
  // RMSNorm of x [n][width].
  void Norm(const float* x, const float* scale, size_t n, size_t width, float* out);

 private:
  const Config config_;
  const KernelTable& kernels_;
  std::shared_ptr<MemoryLedger> ledger_;  // without a limit
  ThreadPool pool_;
  Compute compute_;
  Activations input_;
  Buffer<float> up_;
};

}  // namespace pygrok
