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
      : config_(config), compute_(compute), scratch_(compute.ledger()), parts_(compute.ledger()) {}

  // Rotates keys k [rows][kv_width] in place and stores them and v [rows][kv_width] at the segments'
  // positions.
  void Store(size_t layer, const std::vector<Segment>& segments, const RotaryTable& rotary, float* k,
             const float* v);

  // q [n][q_width], one for each of `rows` (rising indices into the batch), not yet rotated; out
  // [n][q_width] = attention over all positions up to each row's own.
  //
  // Positions are summed in parts of kPartPositions, and the parts in rising order: few rows, a decode step,
  // are shared out over threads by parts as well, and give the same bits.
  void Attend(size_t layer, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
              const RotaryTable& rotary, const float* q, float* out);

 private:
  struct Tile;
  struct Sums;

  std::vector<Tile> TilesOf(const std::vector<Segment>& segments, const std::vector<size_t>& rows) const;
  // The rotated and scaled queries of a tile's rows that share a key/value head, [rows][group][head_size].
  void Queries(const Tile& tile, size_t kv_head, const RotaryTable& rotary, const float* q, float* to) const;
  // Sums over the positions of one part, from zero.
  void AttendPart(size_t layer, const Tile& tile, size_t kv_head, size_t part, const float* queries,
                  const Sums& sums) const;
  void Finish(const Tile& tile, size_t kv_head, const Sums& sums, float* out) const;

  size_t group() const { return config_.heads / config_.kv_heads; }
  size_t acc_stride() const { return RoundUp(config_.head_size, kAccMultiple); }

  const Config& config_;
  Compute& compute_;
  Buffer<float> scratch_;  // [workers] of queries and two Sums
  Buffer<float> parts_;    // [tiles][kv_heads][parts] of Sums, where parts go to different threads
};

}  // namespace pygrok
