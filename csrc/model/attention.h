// Rotary position embedding and attention over the KV cache.
#pragma once

#include <vector>

#include "model/compute.h"
#include "model/kv_cache.h"

namespace pygrok {

// Consecutive positions of one session within a batch.
struct Segment {
  KvCache* cache;
  size_t first_row;  // of the batch
  size_t rows;
  size_t first_position;
};

// cos and sin of the rotation angles for the rows of a batch, both [rows][head_size / 2].
// Angle = position * base^(-2i / head_size), as in RoFormer (2104.09864).
class RotaryTable {
 public:
  explicit RotaryTable(MemoryLedger* ledger) : cos_(ledger), sin_(ledger) {}
  void Set(const std::vector<Segment>& segments, size_t head_size, float base);
  const float* cos(size_t row) const { return cos_data_ + row * half_; }
  const float* sin(size_t row) const { return sin_data_ + row * half_; }

 private:
  Buffer<float> cos_, sin_;
  const float* cos_data_ = nullptr;
  const float* sin_data_ = nullptr;
  size_t half_ = 0;
};

class Attention {
 public:
  Attention(const Config& config, Compute& compute)
      : config_(config), compute_(compute), scratch_(compute.ledger()) {}

  // Rotates keys k [rows][kv_width] in place and stores them and v [rows][kv_width] at the segments'
  // positions.
  void Store(size_t layer, const std::vector<Segment>& segments, const RotaryTable& rotary, float* k,
             const float* v);

  // q [n][q_width], one for each of `rows` (rising indices into the batch), not yet rotated; out
  // [n][q_width] = attention over all positions up to each row's own.
  void Attend(size_t layer, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
              const RotaryTable& rotary, const float* q, float* out);

 private:
  const Config& config_;
  Compute& compute_;
  Buffer<float> scratch_;  // [workers] of query tile, sums and outputs
};

}  // namespace pygrok
