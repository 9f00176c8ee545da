#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pygrok {
namespace {

// Rows that go through a KV block together: enough to reuse it while it is in the cache.
constexpr size_t kTileRows = 16;

// Rows of one session that share a pass over its cache.
struct Tile {
  const Segment* segment;
  size_t first;  // index into q and out
  size_t count;
};

}  // namespace

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
      const size_t slot = position % kKvBlockPositions * layout.vector_bytes();
      for (size_t head = 0; head < config_.kv_heads; ++head) {
        float* key = k + row * width + head * d;
        kernels.rope(key, rotary.cos(row), rotary.sin(row), d / 2);
        kv.store(key, d, block + layout.key_offset(layer, head) + slot);
        kv.store(v + row * width + head * d, d, block + layout.value_offset(layer, head) + slot);
      }
    });
  }
}

void Attention::Attend(size_t layer, const std::vector<Segment>& segments, const std::vector<size_t>& rows,
                       const RotaryTable& rotary, const float* q, float* out) {
  const KernelTable& kernels = compute_.kernels();
  const size_t d = config_.head_size;
  const size_t width = config_.q_width();
  const size_t group = config_.heads / config_.kv_heads;

  std::vector<Tile> tiles;
  size_t next = 0;
  for (const Segment& s : segments) {
    while (next < rows.size() && rows[next] < s.first_row + s.rows) {
      size_t count = 1;
      while (count < kTileRows && next + count < rows.size() && rows[next + count] < s.first_row + s.rows)
        ++count;
      tiles.push_back({&s, next, count});
      next += count;
    }
  }

  const size_t max_queries = kTileRows * group;
  const size_t floats = RoundUp(max_queries * (2 * d + 1), kCacheLine / sizeof(float));
  float* scratch = scratch_.Get(static_cast<size_t>(compute_.pool().size()) * floats);

  // Long tiles cost most and come last: hand out from the end.
  compute_.pool().Run(tiles.size() * config_.kv_heads, [&](size_t task, size_t worker) {
    const Tile& tile = tiles[tiles.size() - 1 - task / config_.kv_heads];
    const size_t kv_head = task % config_.kv_heads;
    const KvCache& cache = *tile.segment->cache;
    const KvLayout& layout = cache.layout();
    const KvKernels& kv = kernels.kv[static_cast<size_t>(layout.type)];
    const size_t n_q = tile.count * group;
    float* queries = scratch + worker * floats;
    float* acc = queries + max_queries * d;
    float* sum = acc + max_queries * d;

    auto position_of = [&](size_t i) {
      return tile.segment->first_position + rows[tile.first + i] - tile.segment->first_row;
    };
    for (size_t i = 0; i < tile.count; ++i) {
      const size_t row = rows[tile.first + i];
      for (size_t g = 0; g < group; ++g) {
        float* query = queries + (i * group + g) * d;
        std::memcpy(query, q + (tile.first + i) * width + (kv_head * group + g) * d, d * sizeof(float));
        kernels.rope(query, rotary.cos(row), rotary.sin(row), d / 2);
        for (size_t j = 0; j < d; ++j) query[j] *= config_.attention_multiplier;
      }
    }
    std::memset(acc, 0, n_q * d * sizeof(float));
    std::memset(sum, 0, n_q * sizeof(float));

    const size_t last = position_of(tile.count - 1);
    std::vector<size_t> visible(n_q);
    for (size_t first = 0; first <= last; first += kKvBlockPositions) {
      for (size_t i = 0; i < n_q; ++i) {
        const size_t seen = position_of(i / group) + 1;  // a row sees itself
        visible[i] = seen <= first ? 0 : std::min(seen - first, kKvBlockPositions);
      }
      const std::byte* block = cache.block(first / kKvBlockPositions);
      kv.attend({.q = queries,
                 .n_q = n_q,
                 .k = block + layout.key_offset(layer, kv_head),
                 .v = block + layout.value_offset(layer, kv_head),
                 .d = d,
                 .visible = visible.data(),
                 .positions = std::min(last + 1 - first, kKvBlockPositions),
                 .cap = config_.attention_soft_cap,
                 .acc = acc,
                 .sum = sum});
    }
    for (size_t i = 0; i < n_q; ++i) {
      float* to = out + (tile.first + i / group) * width + (kv_head * group + i % group) * d;
      const float scale = 1.0f / sum[i];
      for (size_t j = 0; j < d; ++j) to[j] = acc[i * d + j] * scale;
    }
  });
}

}  // namespace pygrok
