// Panels of unpacked weights (codec.inl.h) times int8 activations: the sums that every quantized matmul is
// made of. kLanes weight rows lie side by side in the lanes of a vector, so a dot product needs no sum across
// lanes and scales multiply lane by lane. Every output goes through the same operations in the same order,
// whatever the shape of the tile: see the contract in kernel_table.h.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

// Checked, unrolled and inlined, the bodies would take minutes to compile.
#ifdef __SANITIZE_ADDRESS__
constexpr int kUnroll = 1;
#define PYGROK_FLATTEN
#else
constexpr int kUnroll = 16;  // tiles live in registers
#define PYGROK_FLATTEN [[gnu::flatten]]
#endif
constexpr size_t kChunkBlocks = 64;  // blocks of a row unpacked at a time at most
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

#ifndef PYGROK_FOUR_OF_BLOCK  // a dot product with a lane of a vector brings its own
// Values 4 j to 4 j + 3 of a block, in every lane.
inline Bytes FourOfBlock(const int8_t* values, size_t j) { return Broadcast4(values + 4 * j); }
#endif

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
      const auto four = FourOfBlock(BlockAt(a + t * stride).values, j);
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

// Block b of P panels times T tokens.
template <size_t P, size_t T, class Panel>
[[gnu::always_inline]] inline void AddBlock(const Panel* const* panels, size_t b, const std::byte* a,
                                            size_t stride, F32 (&acc)[P][T]) {
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
    AddBlock<P, T>(panels, b, a, stride, acc);
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

}  // namespace
}  // namespace pygrok
