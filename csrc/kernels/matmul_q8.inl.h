// Quantized weights times int8 activations. Include after the codecs.
//
// kLanes weight rows lie side by side in the lanes of a vector, so a dot product needs no sum across lanes
// and scales multiply lane by lane. Weights are unpacked into panels so laid out and then multiplied: for few
// tokens kStretch blocks at a time, which never leave the first-level cache (decode runs at memory speed);
// for many tokens kChunkBlocks blocks of several rows, which all tokens then go past. Every output goes
// through the same operations in the same order either way: see the contract in kernel_table.h.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr int kUnroll = 1;  // checked and unrolled, the bodies take minutes to compile
#else
constexpr int kUnroll = 16;  // tiles live in registers
#endif
constexpr size_t kStretch = kSuperBlocks;  // blocks unpacked at a time for few tokens
constexpr size_t kChunkBlocks = 64;        // and for many
static_assert(kRowTile % (kPanelsTogether * kLanes) == 0 && kChunkBlocks % kSuperBlocks == 0);

struct Scratch {
  alignas(64) std::byte panels[kPanelsTogether * kChunkBlocks * sizeof(PanelBlock<DotSigned, 2, true>)];
  std::byte rows[kLanes * kChunkBlocks * sizeof(BlockQ8_0)];  // copies of an incomplete tile's rows
};
static_assert(sizeof(Scratch) <= kScratchBytes);

template <class Codec>
[[gnu::noinline]] void UnpackPanel(Rows rows, size_t blocks, typename Codec::Panel* out) {
  for (size_t b = 0; b < blocks; b += Codec::kValues / kBlockValues) {
    Codec::Unpack(rows.first + BytesOf<Codec>(b), rows.stride, out + b);
  }
}

// Asks for the bytes that are `ahead` bytes behind the start of each row's stretch: with so many rows side by
// side the processor's own prefetching does not keep up. An address, not a pointer: it may lie outside the
// weights.
template <size_t kBytes>
void FetchRows(uintptr_t address, size_t stride) {
  for (size_t r = 0; r < kLanes; ++r) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kBytes; i += 64) Prefetch(address + r * stride + i);
  }
}

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

// Rows of the output that are in a tile; whole vectors wherever possible, since a masked store cannot be
// forwarded to the load of the next stretch.
inline F32 LoadRows(const float* p, size_t rows) { return rows >= kLanes ? Load(p) : LoadN(p, rows); }
inline void StoreRows(float* p, F32 x, size_t rows) {
  if (rows >= kLanes) {
    Store(p, x);
  } else {
    StoreN(p, x, rows);
  }
}

// acc[p][t] += scale * (dot product of part kPart of block b of panel p and token t).
template <size_t P, size_t T, size_t kPart, class Panel>
[[gnu::always_inline]] inline void AddDots(const Panel* const* panels, size_t b, const std::byte* a,
                                           size_t stride, F32 (&acc)[P][T]) {
  using Dot = typename Panel::Dot;
  constexpr size_t kSteps = kPart == kWhole ? kGroups : kGroups / 2;
  constexpr size_t kFirst = kPart == kWhole ? 0 : kPart * kSteps;
  constexpr bool kTwoChains = P * T <= 2;  // else there are enough sums to hide the latency of each
  typename Dot::Acc dot[P][T], odd[P][T];
#pragma GCC unroll kUnroll
  for (size_t p = 0; p < P; ++p) {
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      dot[p][t] = Dot::template Init<kPart>(BlockAt(a + t * stride));
      odd[p][t] = Dot::Nothing();
    }
  }
#pragma GCC unroll kUnroll
  for (size_t j = kFirst; j < kFirst + kSteps; ++j) {
    Bytes w[P];
#pragma GCC unroll kUnroll
    for (size_t p = 0; p < P; ++p) w[p] = LoadBytes(panels[p][b].bytes[j]);
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      const Bytes four = Broadcast4(BlockAt(a + t * stride).values + 4 * j);
#pragma GCC unroll kUnroll
      for (size_t p = 0; p < P; ++p) {
        typename Dot::Acc& sum = kTwoChains && j % 2 == 1 ? odd[p][t] : dot[p][t];
        sum = Dot::Step(sum, w[p], four);
      }
    }
  }
#pragma GCC unroll kUnroll
  for (size_t p = 0; p < P; ++p) {
    const F32 scale = Load(panels[p][b].scales[kPart == kWhole ? 0 : kPart]);
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      const ActivationBlock& block = BlockAt(a + t * stride);
      if constexpr (kTwoChains) dot[p][t] = Dot::Join(dot[p][t], odd[p][t]);
      acc[p][t] = Fma(Mul(scale, Set(block.scale)), Dot::Finish(dot[p][t], block), acc[p][t]);
    }
  }
}

// acc[p][t] -= minimum * (sum of token t's values).
template <size_t P, size_t T, size_t kPart, class Panel>
[[gnu::always_inline]] inline void AddMinima(const Panel* const* panels, size_t b, const std::byte* a,
                                             size_t stride, F32 (&acc)[P][T]) {
#pragma GCC unroll kUnroll
  for (size_t p = 0; p < P; ++p) {
    const F32 minimum = Load(panels[p][b].minima(kPart == kWhole ? 0 : kPart));
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      acc[p][t] = Fma(minimum, Set(BlockAt(a + t * stride).minus_sum[kPart]), acc[p][t]);
    }
  }
}

// P panels, one `panel_blocks` blocks behind the other, times T tokens.
template <size_t P, size_t T, class Panel>
[[gnu::noinline]] void Accumulate(const Panel* first, size_t panel_blocks, const Tile& tile) {
  const Panel* panels[P];
  F32 acc[P][T];
#pragma GCC unroll kUnroll
  for (size_t p = 0; p < P; ++p) {
    panels[p] = first + p * panel_blocks;
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      const float* out = tile.out + t * tile.out_stride + p * kLanes;
      acc[p][t] = tile.first ? Zero() : LoadRows(out, tile.rows - p * kLanes);
    }
  }
  const std::byte* a = tile.activations;
  const size_t stride = tile.activation_stride;
  for (size_t b = 0; b < tile.blocks; ++b, a += sizeof(ActivationBlock)) {
    if constexpr (Panel::kScales == 1) {
      AddDots<P, T, kWhole>(panels, b, a, stride, acc);
      if constexpr (Panel::kMinima) AddMinima<P, T, kWhole>(panels, b, a, stride, acc);
    } else {
      AddDots<P, T, 0>(panels, b, a, stride, acc);
      AddDots<P, T, 1>(panels, b, a, stride, acc);
      if constexpr (Panel::kMinima) {
        AddMinima<P, T, 0>(panels, b, a, stride, acc);
        AddMinima<P, T, 1>(panels, b, a, stride, acc);
      }
    }
  }
#pragma GCC unroll kUnroll
  for (size_t p = 0; p < P; ++p) {
#pragma GCC unroll kUnroll
    for (size_t t = 0; t < T; ++t) {
      StoreRows(tile.out + t * tile.out_stride + p * kLanes, acc[p][t], tile.rows - p * kLanes);
    }
  }
}

template <size_t P, size_t T, class Panel>
void AccumulateTokens(size_t tokens, const Panel* first, size_t panel_blocks, const Tile& tile) {
  if constexpr (T > 1) {
    if (tokens < T) return AccumulateTokens<P, T - 1>(tokens, first, panel_blocks, tile);
  }
  Accumulate<P, T>(first, panel_blocks, tile);
}

// Few tokens: kLanes rows, all blocks.
template <class Codec>
void MultiplyStretches(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  constexpr size_t kBytes = BytesOf<Codec>(kStretch);
  constexpr size_t kAhead = (512 + kBytes - 1) / kBytes * kStretch;  // blocks
  typename Codec::Panel* panel = reinterpret_cast<typename Codec::Panel*>(scratch->panels);
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kLanes, args.rows - row);
  const std::byte* first = args.weights + row * args.row_bytes;
  for (size_t b = 0; b < blocks; b += kStretch) {
    const size_t count = Fewer(kStretch, blocks - b);
    // Behind the last blocks come the first of the next rows.
    const size_t ahead = b + kAhead < blocks ? BytesOf<Codec>(b + kAhead)
                                             : kLanes * args.row_bytes + BytesOf<Codec>(b + kAhead - blocks);
    FetchRows<kBytes>(reinterpret_cast<uintptr_t>(first) + ahead, args.row_bytes);
    const Rows from =
        CompleteRows<Codec>({first + BytesOf<Codec>(b), args.row_bytes}, rows, count, scratch->rows);
    UnpackPanel<Codec>(from, count, panel);
    const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                       activation_stride,
                       count,
                       b == 0,
                       args.out + row,
                       args.out_stride,
                       rows};
    AccumulateTokens<1, kDirectTokens>(args.n, panel, 0, tile);
  }
}

// P panels in scratch times all tokens.
template <size_t P, class Panel>
void MultiplyPanels(const Panel* panels, size_t tokens, const Tile& all) {
  const size_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  for (size_t i = 0; i < tiles; ++i) {
    const size_t t = tokens * i / tiles;  // tiles of nearly equal size
    Tile tile = all;
    tile.activations += t * all.activation_stride;
    tile.out += t * all.out_stride;
    AccumulateTokens<P, kTileTokens>(tokens * (i + 1) / tiles - t, panels, kChunkBlocks, tile);
  }
}

// Many tokens: kPanelsTogether times kLanes rows, chunk by chunk.
template <class Codec>
void MultiplyChunks(const MatmulArgs& args, size_t row, size_t activation_stride, Scratch* scratch) {
  constexpr size_t kStep = kPanelsTogether * kLanes;
  typename Codec::Panel* panels = reinterpret_cast<typename Codec::Panel*>(scratch->panels);
  const size_t blocks = args.k / kBlockValues;
  const size_t rows = Fewer(kStep, args.rows - row);
  for (size_t b = 0; b < blocks; b += kChunkBlocks) {
    const size_t count = Fewer(kChunkBlocks, blocks - b);
    for (size_t r = 0; r < rows; r += kLanes) {
      const std::byte* first = args.weights + (row + r) * args.row_bytes + BytesOf<Codec>(b);
      const Rows from =
          CompleteRows<Codec>({first, args.row_bytes}, Fewer(kLanes, rows - r), count, scratch->rows);
      UnpackPanel<Codec>(from, count, panels + r / kLanes * kChunkBlocks);
    }
    const Tile tile = {args.activations + b * sizeof(ActivationBlock),
                       activation_stride,
                       count,
                       b == 0,
                       args.out + row,
                       args.out_stride,
                       rows};
    if (rows > kStep - kLanes) {
      MultiplyPanels<kPanelsTogether>(panels, args.n, tile);
    } else {
      MultiplyPanels<1>(panels, args.n, tile);
    }
  }
}

template <class Codec>
void MatmulQ8(const MatmulArgs& args) {
  const size_t stride = ActivationRowBytes(ActivationFormat::kQ8, args.k);
  Scratch* scratch = reinterpret_cast<Scratch*>(args.scratch);
  if (args.n == 0) return;
  if (args.n <= kDirectTokens) {
    for (size_t r = 0; r < args.rows; r += kLanes) MultiplyStretches<Codec>(args, r, stride, scratch);
  } else {
    for (size_t r = 0; r < args.rows; r += kPanelsTogether * kLanes)
      MultiplyChunks<Codec>(args, r, stride, scratch);
  }
}

}  // namespace
}  // namespace pygrok
