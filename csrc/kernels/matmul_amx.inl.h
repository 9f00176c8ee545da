// Weights times many tokens on AMX tiles of bfloat16 (simd_amx.h). Include after the codecs.
//
// A strip of 32 weight rows is unpacked, 512 values of each at a time, into tiles as the product wants them;
// then all tokens go past. Their sums stay in scratch: in the output, rows of which lie a power of two apart,
// they would fall into few sets of the caches. The same values of all strips come before the next, while the
// tokens' are near.
//
// RoundedWeights: weights are rounded to bfloat16, as activations are, and tiles add up along all of k.
// ExactWeights: codes as they are, which bfloat16 holds exactly, and activations in three parts. Each block
// of 32 values is summed in float32 and scaled outside of the tiles.
#pragma once

#include "kernels/panel_dots.inl.h"

namespace pygrok {
namespace {

constexpr size_t kStripRows = 2 * kTileSide;
constexpr size_t kTileBlocks = 16;  // of a row unpacked at a time: a strip of them fits the first-level cache
constexpr size_t kPassTokens = 512;
constexpr size_t kSumTiles = 512;
constexpr size_t kParts = 3;  // of an activation, see ActivationFormat::kBf16x3
static_assert(kLanes == kTileSide && kTileBlocks % kSuperBlocks == 0 && kManyTokens >= kTileSide);

using TileSums = float[kTileSide][kTileSide];
using WeightTiles = std::byte[kTileBlocks][kTileBytes];

struct TileScratch {
  alignas(64) TileSums sums[kSumTiles];
  WeightTiles weights[2];
  float scales[2][kTileBlocks][kTileSide];                  // ExactWeights
  TileSums block_sums[4];                                   // ExactWeights
  std::byte rows[kLanes * kTileBlocks * 2 * kBlockValues];  // copies of an incomplete strip's
};
static_assert(sizeof(TileScratch) <= kScratchBytes);

// The byte of a panel that stands for 0.
template <class Dot>
constexpr float kZeroCode = 0.0f;
template <>
constexpr float kZeroCode<DotSigned> = 128.0f;
template <>
constexpr float kZeroCode<DotNibble> = 8.0f;
template <>
constexpr float kZeroCode<DotSixBits> = 32.0f;

// Cutting a float off to bfloat16 after multiplying it by this rounds it: what is exact stays, the rest is
// off by less than 0.7 units in the last place, and by none on average. It costs nothing: the scales take it.
constexpr float kRounding = 1 + 0x1.6p-9f;

// Group g of a panel's block, scale * code + offset, as rows of a tile.
template <class Panel>
[[gnu::always_inline]] inline void WriteTile(const Panel& panel, size_t g, F32 scale, F32 offset,
                                             std::byte* tile) {
  constexpr size_t kSteps = kGroups / Panel::kScales;
#pragma GCC unroll kUnroll
  for (size_t j = g * kSteps; j < (g + 1) * kSteps; ++j) {
    const Bytes codes = LoadBytes(panel.bytes[j]);
    const auto value = [&](F32 code) { return Fma(scale, code, offset); };
    StoreBytes(tile + 128 * j, UpperHalves(value(FloatOfByte<0>(codes)), value(FloatOfByte<1>(codes))));
    StoreBytes(tile + 128 * j + 64, UpperHalves(value(FloatOfByte<2>(codes)), value(FloatOfByte<3>(codes))));
  }
}

// Block b of an unpacked row: asks for the b-th row of the next strip, which has the time of a whole strip.
template <class Codec>
[[gnu::always_inline]] inline void FetchRow(Rows next, size_t b) {
  const uintptr_t row = reinterpret_cast<uintptr_t>(next.first) + b * next.stride;
  for (size_t at = 0; at < BytesOf<Codec>(kTileBlocks) + 63; at += 64) Prefetch(row + at);
}

// What a strip's half is unpacked to.
struct HalfStrip {
  std::byte (*tiles)[kTileBytes];
  float (*scales)[kTileSide];
};

template <class Codec>
struct RoundedWeights {
  static constexpr ActivationFormat kActivation = ActivationFormat::kBf16;
  using Block = typename Codec::Block;
  static constexpr size_t kValues = Codec::kValues;

  [[gnu::noinline]] static void Unpack(Rows rows, Rows next, size_t blocks, const HalfStrip& out) {
    using Panel = typename Codec::Panel;
    constexpr size_t kUnpacked = Codec::kValues / kBlockValues;
    for (size_t b = 0; b < blocks; b += kUnpacked) {
      Panel panels[kUnpacked];
      Codec::Unpack(rows.first + BytesOf<Codec>(b), rows.stride, panels);
      for (size_t i = 0; i < kUnpacked; ++i) {
        FetchRow<Codec>(next, b + i);
#pragma GCC unroll 2
        for (size_t g = 0; g < Panel::kScales; ++g) {
          const F32 scale = Mul(Load(panels[i].scales[g]), Set(kRounding));
          F32 offset = Mul(scale, Set(-kZeroCode<typename Panel::Dot>));
          if constexpr (Panel::kMinima) {
            offset = Sub(offset, Mul(Load(panels[i].minima(g)), Set(kRounding)));
          }
          WriteTile(panels[i], g, scale, offset, out.tiles[b + i]);
        }
      }
    }
  }
};

// Bfloat16 weights are what tiles take: only their order changes.
struct PlainWeights {
  static constexpr ActivationFormat kActivation = ActivationFormat::kBf16;
  struct Block {
    uint16_t values[kBlockValues];
  };
  static constexpr size_t kValues = kBlockValues;

  [[gnu::noinline]] static void Unpack(Rows rows, Rows next, size_t blocks, const HalfStrip& out) {
    for (size_t b = 0; b < blocks; ++b) {
      FetchRow<PlainWeights>(next, b);
      for (size_t i = 0; i < 4; ++i) {
        Bytes pairs[4];
        LoadRows16(rows.first + BytesOf<PlainWeights>(b) + 16 * i, rows.stride, pairs);
        for (size_t j = 0; j < 4; ++j) StoreBytes(out.tiles[b] + 256 * i + 64 * j, pairs[j]);
      }
    }
  }
};

template <class Codec>
struct ExactWeights {
  static constexpr ActivationFormat kActivation = ActivationFormat::kBf16x3;
  using Block = typename Codec::Block;
  static constexpr size_t kValues = Codec::kValues;
  static_assert(kValues == kBlockValues && Codec::Panel::kScales == 1 && !Codec::Panel::kMinima);

  [[gnu::noinline]] static void Unpack(Rows rows, Rows next, size_t blocks, const HalfStrip& out) {
    for (size_t b = 0; b < blocks; ++b) {
      typename Codec::Panel panel;
      Codec::Unpack(rows.first + BytesOf<Codec>(b), rows.stride, &panel);
      FetchRow<Codec>(next, b);
      Store(out.scales[b], Load(panel.scales[0]));
      WriteTile(panel, 0, Set(1.0f), Set(-kZeroCode<typename Codec::Dot>), out.tiles[b]);
    }
  }
};

// kTiles = 1 or 2 tiles of tokens times a strip: sums[2 * tile + half].
template <size_t kTiles>
[[gnu::noinline]] void AddStrip(const std::byte* const* tokens, size_t piece_stride, size_t blocks,
                                bool first, const WeightTiles* weights, TileSums* sums) {
  constexpr bool kTwo = kTiles == 2;
  if (first) {
    ZeroTile<0>();
    ZeroTile<1>();
    if constexpr (kTwo) ZeroTile<2>();
    if constexpr (kTwo) ZeroTile<3>();
  } else {
    LoadTile<0>(sums[0]);
    LoadTile<1>(sums[1]);
    if constexpr (kTwo) LoadTile<2>(sums[2]);
    if constexpr (kTwo) LoadTile<3>(sums[3]);
  }
  for (size_t b = 0; b < blocks; ++b) {
    LoadTile<kTokenTile>(tokens[0] + b * piece_stride);
    LoadTile<kWeightTile>(weights[0][b]);
    MultiplyTiles<0, 0, 0>();
    LoadTile<kWeightTile + 1>(weights[1][b]);
    MultiplyTiles<1, 0, 1>();
    if constexpr (kTwo) {
      LoadTile<kTokenTile + 1>(tokens[1] + b * piece_stride);
      MultiplyTiles<2, 1, 0>();
      MultiplyTiles<3, 1, 1>();
    }
  }
  StoreTile<0>(sums[0]);
  StoreTile<1>(sums[1]);
  if constexpr (kTwo) StoreTile<2>(sums[2]);
  if constexpr (kTwo) StoreTile<3>(sums[3]);
}

// Block b of 16 tokens times a strip into sum tiles 2 * kSet and the next.
template <int kSet>
inline void MultiplyParts(const std::byte* tokens, size_t piece_stride, size_t b,
                          const WeightTiles* weights) {
  const std::byte* const parts = tokens + b * kParts * piece_stride;
  ZeroTile<2 * kSet>();
  ZeroTile<2 * kSet + 1>();
  LoadTile<kWeightTile>(weights[0][b]);
  LoadTile<kWeightTile + 1>(weights[1][b]);
  LoadTile<kTokenTile>(parts + 2 * piece_stride);  // the smallest first
  MultiplyTiles<2 * kSet, 0, 0>();
  MultiplyTiles<2 * kSet + 1, 0, 1>();
  LoadTile<kTokenTile + 1>(parts + piece_stride);
  MultiplyTiles<2 * kSet, 1, 0>();
  MultiplyTiles<2 * kSet + 1, 1, 1>();
  LoadTile<kTokenTile>(parts);
  MultiplyTiles<2 * kSet, 0, 0>();
  MultiplyTiles<2 * kSet + 1, 0, 1>();
}

// A block's sums leave their tiles, in which the block after the next begins, and are scaled and added.
template <int kSet>
inline void AddScaled(const std::byte* tokens, size_t piece_stride, size_t b, size_t blocks,
                      TileScratch* scratch, TileSums* sums) {
  TileSums* const from = scratch->block_sums + 2 * kSet;
  StoreTile<2 * kSet>(from[0]);
  StoreTile<2 * kSet + 1>(from[1]);
  if (b + 2 < blocks) MultiplyParts<kSet>(tokens, piece_stride, b + 2, scratch->weights);
  for (size_t half = 0; half < 2; ++half) {
    const F32 scale = Load(scratch->scales[half][b]);
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < kTileSide; ++t) {
      Store(sums[half][t], Fma(scale, Load(from[half][t]), Load(sums[half][t])));
    }
  }
}

// A tile of tokens times a strip: sums[half].
[[gnu::noinline]] void AddExactStrip(const std::byte* tokens, size_t piece_stride, size_t blocks, bool first,
                                     TileScratch* scratch, TileSums* sums) {
  if (first) __builtin_memset(sums, 0, 2 * sizeof(TileSums));
  MultiplyParts<0>(tokens, piece_stride, 0, scratch->weights);
  if (blocks > 1) MultiplyParts<1>(tokens, piece_stride, 1, scratch->weights);
  for (size_t b = 0; b < blocks; b += 2) {
    AddScaled<0>(tokens, piece_stride, b, blocks, scratch, sums);
    if (b + 1 < blocks) AddScaled<1>(tokens, piece_stride, b + 1, blocks, scratch, sums);
  }
}

// All rows times at most kPassTokens tokens, as far as the sums fit the scratch.
template <class Weights>
void MultiplyPass(const MatmulArgs& args, TileScratch* scratch) {
  constexpr size_t kPieces = Weights::kActivation == ActivationFormat::kBf16x3 ? kParts : 1;  // of a block
  const size_t tiles = (args.n + kTileSide - 1) / kTileSide;
  // The last tile begins where it ends with the tokens: some of them are multiplied twice, and alike.
  const auto token_of = [&](size_t tile) { return Fewer(tile * kTileSide, args.n - kTileSide); };
  const size_t blocks = args.k / kBlockValues;
  for (size_t b = 0; b < blocks; b += kTileBlocks) {
    const size_t count = Fewer(kTileBlocks, blocks - b);
    const std::byte* const pieces = args.activations + b * kPieces * args.piece_stride;
    const auto tile_of = [&](size_t tile) { return pieces + token_of(tile) * kPieceBytes; };
    TileSums* sums = scratch->sums;
    for (size_t row = 0; row < args.rows; row += kStripRows, sums += 2 * tiles) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t first = Fewer(args.rows, row + half * kTileSide);
        const Rows rows = {args.weights + first * args.row_bytes + BytesOf<Weights>(b), args.row_bytes};
        const Rows next = {rows.first + kStripRows * args.row_bytes, args.row_bytes};
        Weights::Unpack(CompleteRows<Weights>(rows, Fewer(kLanes, args.rows - first), count, scratch->rows),
                        next, count, {scratch->weights[half], scratch->scales[half]});
      }
      if constexpr (kPieces == 1) {
        for (size_t i = 0; i < tiles; i += 2) {
          const std::byte* const pair[2] = {tile_of(i), tile_of(i + 1)};
          const auto add = i + 1 < tiles ? AddStrip<2> : AddStrip<1>;
          add(pair, args.piece_stride, count, b == 0, scratch->weights, sums + 2 * i);
        }
      } else {
        for (size_t i = 0; i < tiles; ++i) {
          AddExactStrip(tile_of(i), args.piece_stride, count, b == 0, scratch, sums + 2 * i);
        }
      }
    }
  }
  for (size_t i = 0; i < tiles; ++i) {
    for (size_t t = 0; t < kTileSide; ++t) {
      float* const out = args.out + (token_of(i) + t) * args.out_stride;
      for (size_t row = 0; row < args.rows; row += kTileSide) {
        const size_t tile = 2 * (row / kStripRows * tiles + i) + row / kTileSide % 2;
        StoreRows(out + row, Load(scratch->sums[tile][t]), args.rows - row);
      }
    }
  }
}

template <class Weights>
void MatmulTiles(const MatmulArgs& args) {
  auto* const scratch = reinterpret_cast<TileScratch*>(args.scratch);
  const size_t passes = (args.n + kPassTokens - 1) / kPassTokens;
  ConfigureTiles();
  for (size_t p = 0; p < passes; ++p) {
    const size_t token = args.n * p / passes;
    MatmulArgs pass = args;
    pass.n = args.n * (p + 1) / passes - token;
    pass.activations += token * kPieceBytes;
    const size_t most = kSumTiles / 2 / ((pass.n + kTileSide - 1) / kTileSide) * kStripRows;
    for (size_t row = 0; row < args.rows; row += most) {
      pass.rows = Fewer(most, args.rows - row);
      pass.weights = args.weights + row * args.row_bytes;
      pass.out = args.out + token * args.out_stride + row;
      MultiplyPass<Weights>(pass, scratch);
    }
  }
  ReleaseTiles();
}

}  // namespace
}  // namespace pygrok
