#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace pygrok {
namespace {

// Rows that go through a KV block together: enough to reuse it while it is in the cache.
constexpr size_t kTileRows = 16;
constexpr size_t kPartPositions = 8 * kKvBlockPositions;
// Tasks for each thread from which on parts stay together.
constexpr size_t kTasksPerThread = 4;

}  // namespace

// Rows of one session that share a pass over its cache.
struct Attention::Tile {
  const KvCache* cache;
  size_t first;                   // index into q and out
  std::vector<size_t> rows;       // of the batch
  std::vector<size_t> positions;  // of those rows, rising

  size_t parts() const { return positions.back() / kPartPositions + 1; }
};

// Running sums of n queries.
struct Attention::Sums {
  float* acc;  // [n][acc_stride]
  float* sum;  // [n][kWeightSums]
};

void RotaryTable::Set(const std::vector<Segment>& segments, size_t head_size, float base) {
  half_ = head_size / 2;
  size_t rows = 0;
  for (const Segment& s : segments) rows += s.rows;
  float* cos = cos_.Get(rows * half_);
  float* sin = sin_.Get(rows * half_);
  cos_data_ = cos;
  sin_data_ = sin;
  for (size_t i = 0; i < half_; ++i) {
    const double frequency =
        std::pow(double{base}, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
    for (const Segment& s : segments) {
      for (size_t r = 0; r < s.rows; ++r) {
        const double angle = static_cast<double>(s.first_position + r) * frequency;
        cos[(s.first_row + r) * half_ + i] = static_cast<float>(std::cos(angle));
        sin[(s.first_row + r) * half_ + i] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void Attention::Store(size_t layer, const std::vector<Segment>& segments, const RotaryTable& rotary, float* k,
                      const float* v) {
  const KernelTable& kernels = compute_.kernels();
  const size_t d = config_.head_size;
  const size_t width = config_.kv_width();
  for (const Segment& s : segments) {
    const KvLayout& layout = s.cache->layout();
    const KvKernels& kv = kernels.kv[static_cast<size_t>(layout.type)];
    compute_.ForRows(s.rows, 8 * width, [&](size_t r) {
      const size_t row = s.first_row + r;
      const size_t position = s.first_position + r;
      std::byte* block = s.cache->block(position / kKvBlockPositions);
      const size_t place = position % kKvBlockPositions;
      std::vector<std::byte> vector(layout.vector_bytes());
      for (size_t head = 0; head < config_.kv_heads; ++head) {
        float* key = k + row * width + head * d;
        kernels.rope(key, rotary.cos(row), rotary.sin(row), d / 2);
        kv.store(key, d, vector.data());
        layout.PutKey(vector.data(), place, block + layout.key_offset(layer, head));
        kv.store(v + row * width + head * d, d, vector.data());
        layout.PutValue(vector.data(), place, block + layout.value_offset(layer, head));
      }
    });
  }
}

std::vector<Attention::Tile> Attention::TilesOf(const std::vector<Segment>& segments,
                                                const std::vector<size_t>& rows) const {
  std::vector<Tile> tiles;
  size_t next = 0;
  for (const Segment& s : segments) {
    while (next < rows.size() && rows[next] < s.first_row + s.rows) {
      Tile tile = {.cache = s.cache, .first = next, .rows = {}, .positions = {}};
      for (; tile.rows.size() < kTileRows && next < rows.size() && rows[next] < s.first_row + s.rows;
           ++next) {
        tile.rows.push_back(rows[next]);
        tile.positions.push_back(s.first_position + rows[next] - s.first_row);
      }
      tiles.push_back(std::move(tile));
    }
  }
  return tiles;
}

void Attention::Queries(const Tile& tile, size_t kv_head, const RotaryTable& rotary, const float* q,
                        float* to) const {
  const size_t d = config_.head_size;
  for (size_t i = 0; i < tile.rows.size(); ++i) {
    const float* from = q + (tile.first + i) * config_.q_width() + kv_head * group() * d;
    for (size_t g = 0; g < group(); ++g, from += d, to += d) {
      std::memcpy(to, from, d * sizeof(float));
      compute_.kernels().rope(to, rotary.cos(tile.rows[i]), rotary.sin(tile.rows[i]), d / 2);
      for (size_t j = 0; j < d; ++j) to[j] *= config_.attention_multiplier;
    }
  }
}

void Attention::AttendPart(size_t layer, const Tile& tile, size_t kv_head, size_t part, const float* queries,
                           const Sums& sums) const {
  const KvLayout& layout = tile.cache->layout();
  const KvKernels& kv = compute_.kernels().kv[static_cast<size_t>(layout.type)];
  const size_t n = tile.rows.size() * group();
  std::memset(sums.acc, 0, n * acc_stride() * sizeof(float));
  std::memset(sums.sum, 0, n * kWeightSums * sizeof(float));
  std::vector<size_t> visible(n);
  const size_t end = std::min((part + 1) * kPartPositions, tile.positions.back() + 1);
  for (size_t first = part * kPartPositions; first < end; first += kKvBlockPositions) {
    for (size_t i = 0; i < n; ++i) {
      const size_t seen = tile.positions[i / group()] + 1;  // a row sees itself
      visible[i] = seen <= first ? 0 : std::min(seen - first, kKvBlockPositions);
    }
    const std::byte* block = tile.cache->block(first / kKvBlockPositions);
    const size_t next = first + kKvBlockPositions;
    const std::byte* next_block = next < end ? tile.cache->block(next / kKvBlockPositions) : nullptr;
    kv.attend({.q = queries,
               .n_q = n,
               .k = block + layout.key_offset(layer, kv_head),
               .v = block + layout.value_offset(layer, kv_head),
               .d = config_.head_size,
               .next_k = next_block == nullptr ? nullptr : next_block + layout.key_offset(layer, kv_head),
               .visible = visible.data(),
               .cap = config_.attention_soft_cap,
               .acc = sums.acc,
               .acc_stride = acc_stride(),
               .sum = sums.sum});
  }
}

void Attention::Finish(const Tile& tile, size_t kv_head, const Sums& sums, float* out) const {
  const size_t d = config_.head_size;
  for (size_t i = 0; i < tile.rows.size() * group(); ++i) {
    float total = 0;
    for (size_t j = 0; j < kWeightSums; ++j) total += sums.sum[i * kWeightSums + j];
    const float scale = 1.0f / total;
    float* to = out + (tile.first + i / group()) * config_.q_width() + (kv_head * group() + i % group()) * d;
    for (size_t j = 0; j < d; ++j) to[j] = sums.acc[i * acc_stride() + j] * scale;
  }
}

void Attention::Attend(size_t layer, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
                       const RotaryTable& rotary, const float* q, float* out) {
  const std::vector<Tile> tiles = TilesOf(segments, rows);
  size_t most_rows = 0, most_parts = 0;
  for (const Tile& tile : tiles) {
    most_rows = std::max(most_rows, tile.rows.size());
    most_parts = std::max(most_parts, tile.parts());
  }
  const size_t heads = config_.kv_heads;
  const size_t threads = static_cast<size_t>(compute_.pool().size());
  const size_t query_floats = most_rows * group() * config_.head_size;
  const size_t acc_floats = most_rows * group() * acc_stride();
  const size_t sums_floats = acc_floats + most_rows * group() * kWeightSums;
  const size_t floats = RoundUp(query_floats + 2 * sums_floats, kCacheLine / sizeof(float));
  float* scratch = scratch_.Get(threads * floats);
  auto sums_at = [&](float* at) { return Sums{at, at + acc_floats}; };
  // The sums of a later part join those before it.
  auto add = [&](const Tile& tile, const Sums& from, const Sums& to) {
    const size_t n = tile.rows.size() * group();
    for (size_t i = 0; i < n * acc_stride(); ++i) to.acc[i] += from.acc[i];
    for (size_t i = 0; i < n * kWeightSums; ++i) to.sum[i] += from.sum[i];
  };

  const bool split = most_parts > 1 && tiles.size() * heads < kTasksPerThread * threads;
  if (!split) {
    // Long tiles cost most and come last: hand out from the end.
    compute_.pool().Run(tiles.size() * heads, [&](size_t task, size_t worker) {
      const Tile& tile = tiles[tiles.size() - 1 - task / heads];
      float* const queries = scratch + worker * floats;
      const Sums sums = sums_at(queries + query_floats);
      const Sums next = sums_at(queries + query_floats + sums_floats);
      Queries(tile, task % heads, rotary, q, queries);
      for (size_t part = 0; part < tile.parts(); ++part) {
        AttendPart(layer, tile, task % heads, part, queries, part == 0 ? sums : next);
        if (part > 0) add(tile, next, sums);
      }
      Finish(tile, task % heads, sums, out);
    });
    return;
  }
  float* parts = parts_.Get(tiles.size() * heads * most_parts * sums_floats);
  auto sums_of = [&](size_t tile, size_t head, size_t part) {
    return sums_at(parts + ((tile * heads + head) * most_parts + part) * sums_floats);
  };
  compute_.pool().Run(tiles.size() * heads * most_parts, [&](size_t task, size_t worker) {
    const size_t part = task % most_parts, head = task / most_parts % heads, tile = task / most_parts / heads;
    if (part >= tiles[tile].parts()) return;
    float* const queries = scratch + worker * floats;
    Queries(tiles[tile], head, rotary, q, queries);
    AttendPart(layer, tiles[tile], head, part, queries, sums_of(tile, head, part));
  });
  compute_.pool().Run(tiles.size() * heads, [&](size_t task, size_t) {
    const size_t head = task % heads, tile = task / heads;
    for (size_t part = 1; part < tiles[tile].parts(); ++part) {
      add(tiles[tile], sums_of(tile, head, part), sums_of(tile, head, 0));
    }
    Finish(tiles[tile], head, sums_of(tile, head, 0), out);
  });
}

}  // namespace pygrok
