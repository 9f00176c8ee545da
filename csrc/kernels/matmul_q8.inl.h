// Quantized weights times int8 activations. Include after codec.inl.h.
//
// kLanes weight rows lie side by side in the lanes of a vector, so a dot product needs no sum across lanes
// and a block's scales multiply lane by lane. Rows come to lie so by transposing 16-byte pieces of the file's
// blocks: for few tokens in registers, each block used at once (decode runs at memory speed); for many tokens
// once into panels in scratch, kChunkBlocks blocks of a few rows at a time, which all tokens then go past.
// Every output goes through the same operations in the same order either way: see the contract in
// kernel_table.h.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kChunkBlocks = 64;
static_assert(kRowTile % (kPanelsTogether * kLanes) == 0);

// One chunk of kLanes rows in scratch.
struct Panel {
  uint8_t bytes[kChunkBlocks][kGroups][kLanes * 4];
  float scales[kChunkBlocks][kLanes];
};

struct Scratch {
  Panel panels[kPanelsTogether];
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

// Where Accumulate gets its weights: from the file's blocks, or from an unpacked panel.
//
// From the file, a block's scales are gathered from the rows some blocks before they are needed, and the
// cache lines kFetchAhead bytes further on are fetched, those of one row with every block: with so many rows
// side by side the processor's own prefetching does not keep up. Behind the last blocks come the first of the
// next rows (or, harmlessly, nothing: an address, not a pointer, since it may lie outside the weights).
template <class Codec>
struct FileSource {
  using Block = typename Codec::Block;
  using Dot = typename Codec::Dot;
  static constexpr size_t kScalesAhead = 2;
  static constexpr size_t kFetchAhead = 512;  // bytes of each row

  Rows rows;
  size_t blocks;
  uint16_t scales[2 * kScalesAhead][kLanes];

  void Start() {
    for (size_t b = 0; b < kScalesAhead; ++b) GatherScales(b);
  }
  void Get(size_t b, Bytes w[kGroups], F32* scale) {
    Fetch(b);
    GatherScales(b + kScalesAhead);
    Codec::Unpack(rows.first + b * sizeof(Block), rows.stride, w);
    *scale = LoadF16(scales[b % (2 * kScalesAhead)]);
  }
  void Fetch(size_t b) const {
    constexpr size_t kShare = kLanes * sizeof(Block);  // of one row, over kLanes blocks
    constexpr size_t kSharesAhead = (kFetchAhead + kShare - 1) / kShare;
    const size_t ahead = b / kLanes * kLanes + kSharesAhead * kLanes;
    const size_t offset =
        ahead < blocks ? ahead * sizeof(Block) : kLanes * rows.stride + (ahead - blocks) * sizeof(Block);
    const uintptr_t share = reinterpret_cast<uintptr_t>(rows.first) + offset + b % kLanes * rows.stride;
#pragma GCC unroll 16
    for (size_t i = 0; i < kShare; i += 64) Prefetch(share + i);
  }
  void GatherScales(size_t b) {
    const std::byte* block = rows.first + Fewer(b, blocks - 1) * sizeof(Block) + offsetof(Block, scale);
    uint16_t* out = scales[b % (2 * kScalesAhead)];
#pragma GCC unroll 16
    for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(out + r, block + r * rows.stride, sizeof(uint16_t));
  }
};

template <class DotType>
struct PanelSource {
  using Dot = DotType;
  const Panel* panel;

  void Start() {}
  void Get(size_t b, Bytes w[kGroups], F32* scale) const {
#pragma GCC unroll 8
    for (size_t j = 0; j < kGroups; ++j) w[j] = LoadBytes(panel->bytes[b][j]);
    *scale = Load(panel->scales[b]);
  }
};

// The tokens that share a pass over some blocks of some rows.
struct Tile {
  const std::byte* activations;  // of the first token, at the first block
  size_t activation_stride;
  size_t blocks;
  bool first;  // start from 0, else from out
  float* out;
  size_t out_stride;
  size_t rows;  // to be written
};

inline const ActivationBlock& BlockAt(const std::byte* p) {
  return *reinterpret_cast<const ActivationBlock*>(p);
}

// P sources of kLanes rows each, times T tokens.
template <size_t P, size_t T, class Source>
[[gnu::noinline]] void Accumulate(const Source* sources, const Tile& tile) {
  using Dot = typename Source::Dot;
  constexpr bool kTwoChains = P * T <= 2;  // else there are enough sums to hide the latency of each
  Source source[P];
  F32 acc[P][T];
#pragma GCC unroll 2
  for (size_t p = 0; p < P; ++p) {
    source[p] = sources[p];
    source[p].Start();
#pragma GCC unroll 16
    for (size_t t = 0; t < T; ++t) {
      const float* out = tile.out + t * tile.out_stride + p * kLanes;
      acc[p][t] = tile.first ? Zero() : LoadN(out, Fewer(kLanes, tile.rows - p * kLanes));
    }
  }
  const std::byte* a = tile.activations;
  const size_t stride = tile.activation_stride;
  for (size_t b = 0; b < tile.blocks; ++b, a += sizeof(ActivationBlock)) {
    Bytes w[P][kGroups];
    F32 scale[P];
    typename Dot::Acc dot[P][T], odd[P][T];
#pragma GCC unroll 2
    for (size_t p = 0; p < P; ++p) {
      source[p].Get(b, w[p], &scale[p]);
#pragma GCC unroll 16
      for (size_t t = 0; t < T; ++t) {
        dot[p][t] = Dot::Init(BlockAt(a + t * stride));
        odd[p][t] = Dot::Nothing();
      }
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < kGroups; ++j) {
#pragma GCC unroll 16
      for (size_t t = 0; t < T; ++t) {
        const Bytes four = Broadcast4(BlockAt(a + t * stride).values + 4 * j);
#pragma GCC unroll 2
        for (size_t p = 0; p < P; ++p) {
          typename Dot::Acc& sum = kTwoChains && j % 2 == 1 ? odd[p][t] : dot[p][t];
          sum = Dot::Step(sum, w[p][j], four);
        }
      }
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < T; ++t) {
      const ActivationBlock& block = BlockAt(a + t * stride);
#pragma GCC unroll 2
      for (size_t p = 0; p < P; ++p) {
        if constexpr (kTwoChains) dot[p][t] = Dot::Join(dot[p][t], odd[p][t]);
        acc[p][t] = Fma(Mul(scale[p], Set(block.scale)), Dot::Finish(dot[p][t], block), acc[p][t]);
      }
    }
  }
#pragma GCC unroll 2
  for (size_t p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (size_t t = 0; t < T; ++t) {
      float* out = tile.out + t * tile.out_stride + p * kLanes;
      StoreN(out, acc[p][t], Fewer(kLanes, tile.rows - p * kLanes));
    }
  }
}

template <size_t P, size_t T, class Source>
void AccumulateTokens(size_t tokens, const Source* sources, const Tile& tile) {
  if constexpr (T > 1) {
    if (tokens < T) return AccumulateTokens<P, T - 1>(tokens, sources, tile);
  }
  Accumulate<P, T>(sources, tile);
}

// Few tokens: kLanes rows, all blocks; chunk by chunk only where an incomplete tile has to be copied.
template <class Codec>
void MultiplyFromFile(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  using Block = typename Codec::Block;
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kLanes, args.rows - row);
  const size_t chunk = rows == kLanes ? blocks : kChunkBlocks;
  for (size_t b = 0; b < blocks; b += chunk) {
    const size_t count = Fewer(chunk, blocks - b);
    const std::byte* first = args.weights + row * args.row_bytes + b * sizeof(Block);
    const Rows from = CompleteRows<Codec>({first, args.row_bytes}, rows, count, scratch->rows);
    const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                       activation_stride,
                       count,
                       b == 0,
                       args.out + row,
                       args.out_stride,
                       rows};
    const FileSource<Codec> source = {from, count, {}};
    AccumulateTokens<1, kDirectTokens>(args.n, &source, tile);
  }
}

template <class Codec>
void UnpackPanel(Rows rows, size_t blocks, Panel* panel) {
  FileSource<Codec> source = {rows, blocks, {}};
  source.Start();
  for (size_t b = 0; b < blocks; ++b) {
    Bytes w[kGroups];
    F32 scale;
    source.Get(b, w, &scale);
    for (size_t j = 0; j < kGroups; ++j) StoreBytes(panel->bytes[b][j], w[j]);
    Store(panel->scales[b], scale);
  }
}

// Up to kPanelsTogether panels in scratch, which stay in the first-level cache, times all tokens.
template <size_t P, class Dot>
void MultiplyPanels(const Panel* panels, size_t tokens, const Tile& all) {
  PanelSource<Dot> sources[P];
  for (size_t p = 0; p < P; ++p) sources[p].panel = panels + p;
  const size_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  for (size_t i = 0; i < tiles; ++i) {
    const size_t t = tokens * i / tiles;  // tiles of nearly equal size
    Tile tile = all;
    tile.activations += t * all.activation_stride;
    tile.out += t * all.out_stride;
    AccumulateTokens<P, kTileTokens>(tokens * (i + 1) / tiles - t, sources, tile);
  }
}

// Many tokens: up to kRowTile rows, chunk by chunk.
template <class Codec>
void MultiplyFromPanels(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  using Dot = typename Codec::Dot;
  constexpr size_t kStep = kPanelsTogether * kLanes;
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kStep, args.rows - row);
  for (size_t b = 0; b < blocks; b += kChunkBlocks) {
    const size_t count = Fewer(kChunkBlocks, blocks - b);
    for (size_t r = 0; r < rows; r += kLanes) {
      const std::byte* first = args.weights + (row + r) * args.row_bytes + b * sizeof(typename Codec::Block);
      const Rows from =
          CompleteRows<Codec>({first, args.row_bytes}, Fewer(kLanes, rows - r), count, scratch->rows);
      UnpackPanel<Codec>(from, count, &scratch->panels[r / kLanes]);
    }
    const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                       activation_stride,
                       count,
                       b == 0,
                       args.out + row,
                       args.out_stride,
                       rows};
    if (rows > kStep - kLanes) {
      MultiplyPanels<kPanelsTogether, Dot>(scratch->panels, args.n, tile);
    } else {
      MultiplyPanels<1, Dot>(scratch->panels, args.n, tile);
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
    for (size_t r = 0; r < args.rows; r += kPanelsTogether * kLanes)
      MultiplyFromPanels<Codec>(args, r, stride, scratch);
  }
}

}  // namespace
}  // namespace pygrok
