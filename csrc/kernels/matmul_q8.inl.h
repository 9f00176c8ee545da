// Quantized weights times int8 activations. Include after codec.inl.h.
//
// kLanes weight rows lie side by side in the lanes of a vector, so a dot product needs no sum across lanes and a block's
// scales multiply lane by lane. Rows come to lie so by transposing 16-byte pieces of the file's blocks:
// for few tokens in registers, each block used at once (decode runs at memory speed); for many tokens once into scratch,
// kRowTile rows by kChunkBlocks blocks at a time, small enough for the second-level cache.
// Every output goes through the same operations in the same order either way: see the contract in kernel_table.h.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kChunkBlocks = 64;
constexpr size_t kPanels = kRowTile / kLanes;
static_assert(kRowTile % kLanes == 0);

// One chunk of kLanes rows in scratch.
struct Panel {
  uint8_t bytes[kChunkBlocks][kGroups][kLanes * 4];
  float scales[kChunkBlocks][kLanes];
};

struct Scratch {
  Panel panels[kPanels];
  uint16_t scales[kChunkBlocks][kLanes];
  std::byte rows[kLanes * kChunkBlocks * sizeof(BlockQ8_0)];  // copies of an incomplete tile's rows
};
static_assert(sizeof(Scratch) <= kScratchBytes);

// kLanes rows of blocks.
struct Rows {
  const std::byte* first;
  size_t stride;
};

// The same blocks of `rows` rows, filled up to kLanes with zero rows if need be.
template <class Codec>
Rows CompleteRows(Rows from, size_t rows, size_t blocks, std::byte* copy) {
  if (rows == kLanes) return from;
  const size_t bytes = blocks * sizeof(typename Codec::Block);
  __builtin_memset(copy, 0, kLanes * bytes);
  for (size_t r = 0; r < rows; ++r) __builtin_memcpy(copy + r * bytes, from.first + r * from.stride, bytes);
  return {copy, bytes};
}

// Scales, which the file spreads over rows, side by side for each block.
template <class Codec>
void GatherScales(Rows rows, size_t blocks, uint16_t (*out)[kLanes]) {
  for (size_t r = 0; r < kLanes; ++r) {
    const std::byte* block = rows.first + r * rows.stride + offsetof(typename Codec::Block, scale);
    for (size_t b = 0; b < blocks; ++b) __builtin_memcpy(&out[b][r], block + b * sizeof(typename Codec::Block), 2);
  }
}

// Where Accumulate gets its weights: from the file's blocks, or from an unpacked panel.
template <class Codec>
struct FileSource {
  using Dot = typename Codec::Dot;
  Rows rows;
  const uint16_t (*scales)[kLanes];
  void Get(size_t b, Bytes w[kGroups], F32* scale) const {
    Codec::Unpack(rows.first + b * sizeof(typename Codec::Block), rows.stride, w);
    *scale = LoadF16(scales[b]);
  }
};

template <class DotType>
struct PanelSource {
  using Dot = DotType;
  const Panel* panel;
  void Get(size_t b, Bytes w[kGroups], F32* scale) const {
#pragma GCC unroll 8
    for (size_t j = 0; j < kGroups; ++j) w[j] = LoadBytes(panel->bytes[b][j]);
    *scale = Load(panel->scales[b]);
  }
};

// The T tokens that share a pass over some blocks of kLanes rows.
struct Tile {
  const std::byte* activations;  // of the first token, at the first block
  size_t activation_stride;
  size_t blocks;
  bool first;                    // start from 0, else from out
  float* out;
  size_t out_stride;
  size_t rows;                   // <= kLanes, to be written
};

template <size_t T, class Source>
void Accumulate(const Source& source, const Tile& tile) {
  using Dot = typename Source::Dot;
  F32 acc[T];
#pragma GCC unroll 16
  for (size_t t = 0; t < T; ++t) {
    acc[t] = tile.first ? Zero() : LoadN(tile.out + t * tile.out_stride, tile.rows);
  }
  const std::byte* a = tile.activations;
  const size_t stride = tile.activation_stride;
  for (size_t b = 0; b < tile.blocks; ++b, a += sizeof(ActivationBlock)) {
    Bytes w[kGroups];
    F32 scale;
    source.Get(b, w, &scale);
    typename Dot::Acc dot[T];
#pragma GCC unroll 16
    for (size_t t = 0; t < T; ++t) dot[t] = Dot::Init(*reinterpret_cast<const ActivationBlock*>(a + t * stride));
#pragma GCC unroll 8
    for (size_t j = 0; j < kGroups; ++j) {
#pragma GCC unroll 16
      for (size_t t = 0; t < T; ++t) {
        dot[t] = Dot::Step(dot[t], w[j], reinterpret_cast<const ActivationBlock*>(a + t * stride)->values + 4 * j);
      }
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < T; ++t) {
      const ActivationBlock& block = *reinterpret_cast<const ActivationBlock*>(a + t * stride);
      acc[t] = Fma(Mul(scale, Set(block.scale)), Dot::Finish(dot[t], block), acc[t]);
    }
  }
#pragma GCC unroll 16
  for (size_t t = 0; t < T; ++t) StoreN(tile.out + t * tile.out_stride, acc[t], tile.rows);
}

template <size_t T, class Source>
void AccumulateTokens(size_t tokens, const Source& source, const Tile& tile) {
  if constexpr (T > 1) {
    if (tokens < T) return AccumulateTokens<T - 1>(tokens, source, tile);
  }
  Accumulate<T>(source, tile);
}

// Few tokens: kLanes rows, all blocks.
template <class Codec>
void MultiplyFromFile(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kLanes, args.rows - row);
  for (size_t b = 0; b < blocks; b += kChunkBlocks) {
    const size_t count = Fewer(kChunkBlocks, blocks - b);
    const std::byte* first = args.weights + row * args.row_bytes + b * sizeof(typename Codec::Block);
    const Rows from = CompleteRows<Codec>({first, args.row_bytes}, rows, count, scratch->rows);
    GatherScales<Codec>(from, count, scratch->scales);
    const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                       activation_stride,
                       count,
                       b == 0,
                       args.out + row,
                       args.out_stride,
                       rows};
    AccumulateTokens<kDirectTokens>(args.n, FileSource<Codec>{from, scratch->scales}, tile);
  }
}

template <class Codec>
void UnpackPanel(Rows rows, size_t blocks, Scratch* scratch, Panel* panel) {
  GatherScales<Codec>(rows, blocks, scratch->scales);
  const FileSource<Codec> source = {rows, scratch->scales};
  for (size_t b = 0; b < blocks; ++b) {
    Bytes w[kGroups];
    F32 scale;
    source.Get(b, w, &scale);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(panel->bytes[b][j], w[j]);
    Store(panel->scales[b], scale);
  }
}

// Many tokens: up to kRowTile rows, chunk by chunk. A tile's activations stay in the first-level cache for all panels.
template <class Codec>
void MultiplyFromPanels(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kRowTile, args.rows - row);
  const size_t tiles = (args.n + kTileTokens - 1) / kTileTokens;
  for (size_t b = 0; b < blocks; b += kChunkBlocks) {
    const size_t count = Fewer(kChunkBlocks, blocks - b);
    for (size_t r = 0; r < rows; r += kLanes) {
      const std::byte* first = args.weights + (row + r) * args.row_bytes + b * sizeof(typename Codec::Block);
      const Rows from = CompleteRows<Codec>({first, args.row_bytes}, Fewer(kLanes, rows - r), count, scratch->rows);
      UnpackPanel<Codec>(from, count, scratch, &scratch->panels[r / kLanes]);
    }
    for (size_t i = 0; i < tiles; ++i) {
      const size_t t = args.n * i / tiles;  // tiles of nearly equal size
      for (size_t r = 0; r < rows; r += kLanes) {
        const Tile tile = {args.activations + t * activation_stride + b * sizeof(ActivationBlock),
                           activation_stride,
                           count,
                           b == 0,
                           args.out + t * args.out_stride + row + r,
                           args.out_stride,
                           Fewer(kLanes, rows - r)};
        AccumulateTokens<kTileTokens>(args.n * (i + 1) / tiles - t,
                                      PanelSource<typename Codec::Dot>{&scratch->panels[r / kLanes]}, tile);
      }
    }
  }
}

template <class Codec>
void MatmulQ8(const MatmulArgs& args) {
  const size_t stride = ActivationRowBytes(ActivationFormat::kQ8, args.k);
  Scratch* scratch = reinterpret_cast<Scratch*>(args.scratch);
  if (args.n == 0) return;
  if (args.n <= kDirectTokens) {
    for (size_t r = 0; r < args.rows; r += kLanes) MultiplyFromFile<Codec>(args, r, stride, scratch);
  } else {
    for (size_t r = 0; r < args.rows; r += kRowTile) MultiplyFromPanels<Codec>(args, r, stride, scratch);
  }
}

}  // namespace
}  // namespace pygrok
