// Quantized weights times many tokens on AMX tiles: a panel of kLanes = 16 weight rows (panel_dots.inl.h) by
// 16 tokens. A tile's sums go through memory into the same multiplications and additions as everywhere, which
// keeps the bits. Those are what takes the time: while tile instructions run, the processor does one
// operation on a vector of floats a cycle, three are due for 512 products, and all the rest hides behind
// them.
#pragma once

#include "kernels/panel_dots.inl.h"

namespace pygrok {
namespace {

constexpr size_t kTileBlocks = 16;  // of a row unpacked at a time
constexpr size_t kPackTokens = 256;
static_assert(kLanes == kTileSide && kTileBlocks % kSuperBlocks == 0);

// 32 values of 16 tokens.
template <bool kHasMinima>
struct TokenBlock {
  alignas(64) int8_t values[kTileSide][kBlockValues];
  float scale[kTileSide];
};
template <>
struct TokenBlock<true> : TokenBlock<false> {
  float minus_sum[3][kTileSide];  // as in ActivationBlock
};

struct TileScratch {
  TokenBlock<true> tokens[kPackTokens / kTileSide][kTileBlocks];
  alignas(64) std::byte panel[kTileBlocks * sizeof(PanelBlock<DotSigned, 2, true>)];
  alignas(64) int32_t sums[2][kTileSide][kTileSide];
  std::byte rows[kLanes * kTileBlocks * sizeof(BlockQ8_0)];
};
static_assert(sizeof(TileScratch) <= kScratchBytes);

template <class Dot>
constexpr bool kUnsignedCodes = false;
template <>
constexpr bool kUnsignedCodes<DotCode> = true;

// Some tokens' blocks side by side. Tokens that are not there count as zero.
template <class Block>
[[gnu::noinline]] void PackTokens(const std::byte* activations, size_t stride, size_t tokens, size_t blocks,
                                  Block* out) {
  for (size_t t = 0; t < kTileSide; ++t) {
    for (size_t b = 0; b < blocks; ++b) {
      static constexpr ActivationBlock kNothing = {};
      const ActivationBlock& block =
          t < tokens ? BlockAt(activations + t * stride + b * sizeof(ActivationBlock)) : kNothing;
      __builtin_memcpy(out[b].values[t], block.values, kBlockValues);
      out[b].scale[t] = block.scale;
      if constexpr (sizeof(Block) > sizeof(TokenBlock<false>)) {
        for (size_t part = 0; part < 3; ++part) out[b].minus_sum[part][t] = block.minus_sum[part];
      }
    }
  }
}

// acc[t] += scale * sums of unit `unit`, which is a group of a block; behind the last one the minima.
template <size_t T, class Panel, class Block>
[[gnu::always_inline]] inline void AddSums(const Panel& panel, const Block& block, size_t group,
                                           const int32_t (*sums)[kTileSide], F32 (&acc)[T]) {
  const F32 scale = Load(panel.scales[group]);
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) acc[t] = Fma(Mul(scale, Set(block.scale[t])), LoadSums(sums[t]), acc[t]);
  if constexpr (Panel::kMinima) {
    if (group + 1 < Panel::kScales) return;
#pragma GCC unroll 2
    for (size_t g = 0; g < Panel::kScales; ++g) {
      const F32 minimum = Load(panel.minima(g));
      const float* const minus_sum = block.minus_sum[Panel::kScales == 1 ? kWhole : g];
#pragma GCC unroll kUnroll
      for (size_t t = 0; t < T; ++t) acc[t] = Fma(minimum, Set(minus_sum[t]), acc[t]);
    }
  }
}

// A panel times T tokens. Products run two units ahead of the floats, their way through memory one.
template <size_t T, class Panel, class Block>
[[gnu::noinline]] void AccumulateTile(const Panel* panel, const Block* tokens, size_t blocks,
                                      int32_t (*sums)[kTileSide][kTileSide], bool first, float* out,
                                      size_t out_stride, size_t live_tokens, size_t rows) {
  constexpr size_t kUnits = Panel::kScales;  // of a block
  constexpr bool kUnsigned = kUnsignedCodes<typename Panel::Dot>;
  const auto weights = [panel](size_t u) { return panel[u / kUnits].bytes[u % kUnits * (kGroups / kUnits)]; };
  const auto values = [tokens](size_t u) {
    return tokens[u / kUnits].values[0] + u % kUnits * (kBlockValues / kUnits);
  };
  F32 acc[T];
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) {
    acc[t] = first || t >= live_tokens ? Zero() : LoadRows(out + t * out_stride, rows);
  }
  const size_t units = blocks * kUnits;
  MultiplyTile<0, kUnsigned>(values(0), kBlockValues, weights(0));
  if (units > 1) MultiplyTile<1, kUnsigned>(values(1), kBlockValues, weights(1));
  StoreTile<0>(sums[0]);
  for (size_t u = 0; u < units; u += 2) {
    if (u + 2 < units) MultiplyTile<0, kUnsigned>(values(u + 2), kBlockValues, weights(u + 2));
    if (u + 1 < units) StoreTile<1>(sums[1]);
    AddSums<T>(panel[u / kUnits], tokens[u / kUnits], u % kUnits, sums[0], acc);
    if (u + 1 == units) break;
    if (u + 3 < units) MultiplyTile<1, kUnsigned>(values(u + 3), kBlockValues, weights(u + 3));
    if (u + 2 < units) StoreTile<0>(sums[0]);
    AddSums<T>(panel[(u + 1) / kUnits], tokens[(u + 1) / kUnits], (u + 1) % kUnits, sums[1], acc);
  }
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) {
    if (t < live_tokens) StoreRows(out + t * out_stride, acc[t], rows);
  }
}

template <class Panel>
void MakeSigned(Panel* panel, size_t blocks) {
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t j = 0; j < kGroups; ++j) {
      StoreBytes(panel[b].bytes[j], ValuesOf(typename Panel::Dot{}, LoadBytes(panel[b].bytes[j])));
    }
  }
}

// Blocks [b, b + count) of all rows times at most kPackTokens tokens.
template <class Codec>
void MultiplyTileChunk(const MatmulArgs& args, size_t b, size_t count, size_t stride, TileScratch* scratch) {
  using Panel = typename Codec::Panel;
  using Block = TokenBlock<Panel::kMinima>;
  auto* const panel = reinterpret_cast<Panel*>(scratch->panel);
  auto* const tokens = reinterpret_cast<Block*>(scratch->tokens);
  const size_t tiles = (args.n + kTileSide - 1) / kTileSide;
  const auto first_of = [&](size_t tile) { return args.n * tile / tiles; };  // tiles of nearly equal size
  for (size_t i = 0; i < tiles; ++i) {
    PackTokens(args.activations + first_of(i) * stride + b * sizeof(ActivationBlock), stride,
               first_of(i + 1) - first_of(i), count, tokens + i * kTileBlocks);
  }
  for (size_t row = 0; row < args.rows; row += kLanes) {
    const size_t rows = Fewer(kLanes, args.rows - row);
    const std::byte* const first = args.weights + row * args.row_bytes + BytesOf<Codec>(b);
    UnpackPanel<Codec>(CompleteRows<Codec>({first, args.row_bytes}, rows, count, scratch->rows), count,
                       panel);
    if constexpr (!kUnsignedCodes<typename Panel::Dot>) MakeSigned(panel, count);
    for (size_t i = 0; i < tiles; ++i) {
      const size_t live = first_of(i + 1) - first_of(i);
      const auto accumulate = live > 12  ? AccumulateTile<16, Panel, Block>
                              : live > 8 ? AccumulateTile<12, Panel, Block>
                              : live > 4 ? AccumulateTile<8, Panel, Block>
                                         : AccumulateTile<4, Panel, Block>;
      accumulate(panel, tokens + i * kTileBlocks, count, scratch->sums, b == 0,
                 args.out + first_of(i) * args.out_stride + row, args.out_stride, live, rows);
    }
  }
}

template <class Codec>
void MultiplyManyTokens(const MatmulArgs& args, size_t activation_stride) {
  ConfigureTiles(kBlockValues / Codec::Panel::kScales);
  auto* const scratch = reinterpret_cast<TileScratch*>(args.scratch);
  const size_t blocks = args.k / kBlockValues;
  for (size_t t = 0; t < args.n; t += kPackTokens) {
    MatmulArgs part = args;
    part.n = Fewer(kPackTokens, args.n - t);
    part.activations += t * activation_stride;
    part.out += t * args.out_stride;
    for (size_t b = 0; b < blocks; b += kTileBlocks) {
      MultiplyTileChunk<Codec>(part, b, Fewer(kTileBlocks, blocks - b), activation_stride, scratch);
    }
  }
  ReleaseTiles();
}

}  // namespace
}  // namespace pygrok
