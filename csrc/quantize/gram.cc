#include "quantize/gram.h"

#include <algorithm>
#include <vector>

#include "quantize/isa.inl.h"
#include "quantize/lanes.h"
#include "util/aligned.h"

namespace pygrok {
namespace {

constexpr size_t kTile = 64;    // columns of x and of y whose sums are made together
constexpr size_t kChunk = 128;  // rows that are summed in float32: two packed tiles of 32 KiB
constexpr size_t kWide = 2;     // vectors of y and
constexpr size_t kTall = 4;     // values of x whose sums stand in registers
static_assert(kTile % (kWide * kLanes) == 0 && kTile % kTall == 0);

// x [n][kTile] and y [n][kTile], packed; adds to sums [kTile][kTile].
PYGROK_LANES void AddTile(const float* x, const float* y, size_t n, double* sums) {
  for (size_t a = 0; a < kTile; a += kTall) {
    for (size_t b = 0; b < kTile; b += kWide * kLanes) {
      F32x acc[kTall][kWide] = {};
      for (size_t t = 0; t < n; ++t) {
        F32x values[kWide];
        for (size_t j = 0; j < kWide; ++j) Load(y + t * kTile + b + j * kLanes, values[j]);
        for (size_t i = 0; i < kTall; ++i) {
          const float factor = x[t * kTile + a + i];
          for (size_t j = 0; j < kWide; ++j) acc[i][j] += values[j] * factor;
        }
      }
      for (size_t i = 0; i < kTall; ++i) {
        for (size_t j = 0; j < kWide; ++j) {
          double* const to = sums + (a + i) * kTile + b + j * kLanes;
          for (size_t lane = 0; lane < kLanes; ++lane) to[lane] += static_cast<double>(acc[i][j][lane]);
        }
      }
    }
  }
}

// Columns [first, first + kTile) of rows, those beyond k zero, each row times its weight.
void Pack(const float* rows, size_t stride, size_t k, size_t first, const float* weights, size_t n,
          float* out) {
  const size_t count = std::min(kTile, k - first);
  for (size_t t = 0; t < n; ++t) {
    const float weight = weights == nullptr ? 1.0f : weights[t];
    const float* const from = rows + t * stride + first;
    for (size_t i = 0; i < count; ++i) out[t * kTile + i] = weight * from[i];
    std::fill(out + t * kTile + count, out + (t + 1) * kTile, 0.0f);
  }
}

}  // namespace

void AddGram(ThreadPool& pool, const GramArgs& args) {
  const auto add_tile = ForEachIsa<AddTile>::Best();
  const bool symmetric = args.x == args.y && args.k_x == args.k_y && args.stride_x == args.stride_y;
  const size_t tiles_x = (args.k_x + kTile - 1) / kTile;
  const size_t tiles_y = (args.k_y + kTile - 1) / kTile;
  const auto threads = static_cast<size_t>(pool.size());
  std::vector<AlignedBuffer<float>> packed(threads);
  std::vector<AlignedBuffer<double>> sums(threads);
  for (size_t i = 0; i < threads; ++i) {
    packed[i] = AlignedBuffer<float>(2 * kChunk * kTile);
    sums[i] = AlignedBuffer<double>(kTile * kTile);
  }
  pool.Run(tiles_x * tiles_y, [&](size_t task, size_t worker) {
    const size_t first_x = task / tiles_y * kTile;
    const size_t first_y = task % tiles_y * kTile;
    if (symmetric && first_y < first_x) return;  // mirrored from the tile above the diagonal
    float* const x = packed[worker].data();
    float* const y = x + kChunk * kTile;
    double* const sum = sums[worker].data();
    std::fill_n(sum, kTile * kTile, 0.0);
    for (size_t t = 0; t < args.n; t += kChunk) {
      const size_t n = std::min(kChunk, args.n - t);
      Pack(args.x + t * args.stride_x, args.stride_x, args.k_x, first_x,
           args.weights == nullptr ? nullptr : args.weights + t, n, x);
      Pack(args.y + t * args.stride_y, args.stride_y, args.k_y, first_y, nullptr, n, y);
      add_tile(x, y, n, sum);
    }
    for (size_t a = 0; a < std::min(kTile, args.k_x - first_x); ++a) {
      for (size_t b = 0; b < std::min(kTile, args.k_y - first_y); ++b) {
        const double value = sum[a * kTile + b];
        args.out[(first_x + a) * args.k_y + first_y + b] += value;
        if (symmetric && first_x != first_y) args.out[(first_y + b) * args.k_y + first_x + a] += value;
      }
    }
  });
}

}  // namespace pygrok
