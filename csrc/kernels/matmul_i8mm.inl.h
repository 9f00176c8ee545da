// Quantized weights times int8 activations where there is smmla, which multiplies two rows of eight bytes by
// two others into a 2 x 2 tile of sums: twice the products of a dot product instruction. With many tokens, a
// vector holds such a tile of outputs, two rows by two tokens, and goes through the operations of
// panel_dots.inl.h in their order.
#pragma once

#include "kernels/matmul_q8.inl.h"

namespace pygrok {
namespace {

constexpr size_t kRowPairs = kLanes / 2;
constexpr size_t kTokenPairs = 3;   // in a tile: 12 registers of sums, 12 of dot products
constexpr size_t kPairBlocks = 32;  // blocks at a time: a panel and a tile's tokens stay in the nearest cache
constexpr size_t kPairPanels = kRowTile / kLanes;  // unpacked together: share the work of pairing tokens
constexpr size_t kEights = kBlockValues / 8;

// 32 values of two tokens, eight of the one and eight of the other in turn; the numbers of a token stand in
// every second lane.
template <class Panel>
struct PairBlock {
  int8_t values[kEights][16];
  float scale[4];
  int32_t start[Panel::kScales][4];  // of the dot products
  float minus_sum[Panel::kScales][4];
};

template <class Panel, size_t kPart>
void PairPart(const ActivationBlock& a, const ActivationBlock& b, size_t part, PairBlock<Panel>* out) {
  using Dot = typename Panel::Dot;
  const int32x4_t first = Dot::template Init<kPart>(a).lo, second = Dot::template Init<kPart>(b).lo;
  vst1q_s32(out->start[part], vzip1q_s32(first, second));
  vst1q_f32(out->minus_sum[part],
            vzip1q_f32(vdupq_n_f32(a.minus_sum[kPart]), vdupq_n_f32(b.minus_sum[kPart])));
}

template <class Panel>
void PairTokens(const std::byte* first, const std::byte* second, size_t blocks, PairBlock<Panel>* out) {
  for (size_t i = 0; i < blocks; ++i, ++out) {
    const ActivationBlock &a = BlockAt(first + i * sizeof a), &b = BlockAt(second + i * sizeof b);
    for (size_t e = 0; e < kEights; ++e) {
      vst1q_s8(out->values[e], vcombine_s8(vld1_s8(a.values + 8 * e), vld1_s8(b.values + 8 * e)));
    }
    vst1q_f32(out->scale, vzip1q_f32(vdupq_n_f32(a.scale), vdupq_n_f32(b.scale)));
    if constexpr (Panel::kScales == 1) {
      PairPart<Panel, kWhole>(a, b, 0, out);
    } else {
      PairPart<Panel, 0>(a, b, 0, out);
      PairPart<Panel, 1>(a, b, 1, out);
    }
  }
}

// Brings a panel's bytes into the order of smmla: rows 4 h and 4 h + 1, then 4 h + 2 and 4 h + 3, with eight
// values each, in place of two groups of four values of rows 4 h to 4 h + 3.
template <class Panel>
void PairRows(Panel* panel, size_t blocks) {
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t j = 0; j < kGroups; j += 2) {
      const Bytes x = LoadBytes(panel[b].bytes[j]), y = LoadBytes(panel[b].bytes[j + 1]);
      const uint32x4_t lo = AsWords(x.lo), hi = AsWords(x.hi), next_lo = AsWords(y.lo),
                       next_hi = AsWords(y.hi);
      StoreBytes(panel[b].bytes[j], {AsBytes(vzip1q_u32(lo, next_lo)), AsBytes(vzip1q_u32(hi, next_hi))});
      StoreBytes(panel[b].bytes[j + 1], {AsBytes(vzip2q_u32(lo, next_lo)), AsBytes(vzip2q_u32(hi, next_hi))});
    }
  }
}

// The numbers of kLanes rows, each twice: for the tokens of a pair.
struct TwiceRows {
  float32x4_t pair[kRowPairs];
  explicit TwiceRows(F32 x)
      : pair{vzip1q_f32(x.lo, x.lo), vzip2q_f32(x.lo, x.lo), vzip1q_f32(x.hi, x.hi), vzip2q_f32(x.hi, x.hi)} {
  }
};

template <size_t T>
using PairSums = float32x4_t[kRowPairs][T];

// acc[r][t] += scale * (dot products of part `part` of a block).
template <size_t T, class Panel>
[[gnu::always_inline]] inline void AddPairDots(const Panel& panel, const PairBlock<Panel>* a, size_t part,
                                               PairSums<T>& acc) {
  constexpr size_t kSteps = kEights / Panel::kScales;
  int32x4_t dot[kRowPairs][T];
#pragma GCC unroll kUnroll
  for (size_t r = 0; r < kRowPairs; ++r) {
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) dot[r][t] = vld1q_s32(a[t * kPairBlocks].start[part]);
  }
#pragma GCC unroll kUnroll
  for (size_t e = part * kSteps; e < (part + 1) * kSteps; ++e) {
    const Bytes even = LoadBytes(panel.bytes[2 * e]), odd = LoadBytes(panel.bytes[2 * e + 1]);
    const int8x16_t w[kRowPairs] = {Signed(even.lo), Signed(odd.lo), Signed(even.hi), Signed(odd.hi)};
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      const int8x16_t tokens = vld1q_s8(a[t * kPairBlocks].values[e]);
#pragma GCC unroll kUnroll
      for (size_t r = 0; r < kRowPairs; ++r) dot[r][t] = vmmlaq_s32(dot[r][t], w[r], tokens);
    }
  }
  const TwiceRows scale(Load(panel.scales[part]));
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) {
    const float32x4_t of_tokens = vld1q_f32(a[t * kPairBlocks].scale);
#pragma GCC unroll kUnroll
    for (size_t r = 0; r < kRowPairs; ++r) {
      acc[r][t] = vfmaq_f32(acc[r][t], vmulq_f32(scale.pair[r], of_tokens), vcvtq_f32_s32(dot[r][t]));
    }
  }
}

template <size_t T, class Panel>
[[gnu::always_inline]] inline void AddPairMinima(const Panel& panel, const PairBlock<Panel>* a, size_t part,
                                                 PairSums<T>& acc) {
  const TwiceRows minimum(Load(panel.minima(part)));
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) {
    const float32x4_t minus_sum = vld1q_f32(a[t * kPairBlocks].minus_sum[part]);
#pragma GCC unroll kUnroll
    for (size_t r = 0; r < kRowPairs; ++r) acc[r][t] = vfmaq_f32(acc[r][t], minimum.pair[r], minus_sum);
  }
}

// One panel times the first `tokens` of T pairs; the tile says where the outputs are.
template <size_t T, class Panel>
[[gnu::noinline]] void AccumulatePairs(const Panel* panel, const PairBlock<Panel>* pairs, size_t tokens,
                                       const Tile& tile) {
  PairSums<T> acc;
  for (size_t t = 0; t < T; ++t) {
    float* const out = tile.out + 2 * t * tile.out_stride;
    const F32 first = tile.first ? Zero() : LoadRows(out, tile.rows);
    const bool both = 2 * t + 1 < tokens;
    const F32 second = tile.first || !both ? Zero() : LoadRows(out + tile.out_stride, tile.rows);
    acc[0][t] = vzip1q_f32(first.lo, second.lo);
    acc[1][t] = vzip2q_f32(first.lo, second.lo);
    acc[2][t] = vzip1q_f32(first.hi, second.hi);
    acc[3][t] = vzip2q_f32(first.hi, second.hi);
  }
  for (size_t b = 0; b < tile.blocks; ++b) {
#pragma GCC unroll 2
    for (size_t part = 0; part < Panel::kScales; ++part) AddPairDots<T>(panel[b], pairs + b, part, acc);
    if constexpr (Panel::kMinima) {
#pragma GCC unroll 2
      for (size_t part = 0; part < Panel::kScales; ++part) AddPairMinima<T>(panel[b], pairs + b, part, acc);
    }
  }
  for (size_t t = 0; t < T; ++t) {
    float* const out = tile.out + 2 * t * tile.out_stride;
    StoreRows(out, {vuzp1q_f32(acc[0][t], acc[1][t]), vuzp1q_f32(acc[2][t], acc[3][t])}, tile.rows);
    if (2 * t + 1 == tokens) break;
    StoreRows(out + tile.out_stride, {vuzp2q_f32(acc[0][t], acc[1][t]), vuzp2q_f32(acc[2][t], acc[3][t])},
              tile.rows);
  }
}

template <size_t T, class Panel>
void AccumulatePairsOf(size_t tokens, const Panel* panel, const PairBlock<Panel>* pairs, const Tile& tile) {
  if constexpr (T > 1) {
    if (tokens <= 2 * (T - 1)) return AccumulatePairsOf<T - 1>(tokens, panel, pairs, tile);
  }
  AccumulatePairs<T>(panel, pairs, tokens, tile);
}

template <class Panel>
struct PairScratch {
  alignas(64) Panel panels[kPairPanels][kPairBlocks];
  PairBlock<Panel> pairs[kTokenPairs * kPairBlocks];
  std::byte rows[kLanes * kPairBlocks * sizeof(BlockQ8_0)];  // copies of an incomplete panel's rows
};

// Panels of all.rows rows times all tokens, kTokenPairs pairs at a time.
template <class Panel>
void MultiplyPairs(PairScratch<Panel>* scratch, size_t tokens, const Tile& all) {
  const size_t pairs = (tokens + 1) / 2, tiles = (pairs + kTokenPairs - 1) / kTokenPairs;
  for (size_t i = 0; i < tiles; ++i) {
    const size_t begin = 2 * (pairs * i / tiles), end = Fewer(2 * (pairs * (i + 1) / tiles), tokens);
    for (size_t t = begin; t < end; t += 2) {
      const std::byte* const first = all.activations + t * all.activation_stride;
      const std::byte* const second = t + 1 < end ? first + all.activation_stride : first;
      PairTokens(first, second, all.blocks, scratch->pairs + (t - begin) / 2 * kPairBlocks);
    }
    for (size_t r = 0; r < all.rows; r += kLanes) {
      Tile tile = all;
      tile.out += begin * all.out_stride + r;
      tile.rows -= r;
      AccumulatePairsOf<kTokenPairs>(end - begin, scratch->panels[r / kLanes], scratch->pairs, tile);
    }
  }
}

template <class Codec>
void MatmulPairs(const MatmulArgs& args) {
  using PairedScratch = PairScratch<typename Codec::Panel>;
  static_assert(sizeof(PairedScratch) <= kScratchBytes && kPairBlocks % kSuperBlocks == 0);
  if (args.n <= kDirectTokens) return MatmulQ8<Codec>(args);
  auto* const scratch = reinterpret_cast<PairedScratch*>(args.scratch);
  const size_t stride = ActivationRowBytes(ActivationFormat::kQ8, args.k);
  const size_t blocks = args.k / kBlockValues;
  for (size_t row = 0; row < args.rows; row += kRowTile) {
    const size_t rows = Fewer(kRowTile, args.rows - row);
    for (size_t b = 0; b < blocks; b += kPairBlocks) {
      const size_t count = Fewer(kPairBlocks, blocks - b);
      for (size_t r = 0; r < rows; r += kLanes) {
        const std::byte* first = args.weights + (row + r) * args.row_bytes + BytesOf<Codec>(b);
        const Rows from =
            CompleteRows<Codec>({first, args.row_bytes}, Fewer(kLanes, rows - r), count, scratch->rows);
        UnpackPanel<Codec>(from, count, scratch->panels[r / kLanes]);
        PairRows(scratch->panels[r / kLanes], count);
      }
      const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                         stride,
                         count,
                         b == 0,
                         args.out + row,
                         args.out_stride,
                         rows};
      MultiplyPairs(scratch, args.n, tile);
    }
  }
}

// As DotRounds in limits.inl.h.
constexpr size_t kMacsPerProduct = 32;

int32_t MatrixRounds(size_t rounds) {
  int32x4_t acc[kDotChains];
  int8x16_t w = vdupq_n_s8(3);
#pragma GCC unroll 16
  for (size_t c = 0; c < kDotChains; ++c) acc[c] = vdupq_n_s32(0);
  for (size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (size_t c = 0; c < kDotChains; ++c) {
      __asm__ volatile("" : "+w"(w));  // every step does all of its work
      acc[c] = vmmlaq_s32(acc[c], w, w);
      __asm__ volatile("" : "+w"(acc[c]));
    }
  }
  int32_t result = 0;
  for (size_t c = 0; c < kDotChains; ++c) result ^= vgetq_lane_s32(acc[c], 0);
  return result;
}

}  // namespace
}  // namespace pygrok
