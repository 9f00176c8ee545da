// Quantized weights times int8 activations. Include after the codecs.
//
// Few tokens: matmul_decode.inl.h. Many tokens: kChunkBlocks blocks of several rows are unpacked into panels,
// which all tokens then go past; the same blocks of all rows come first, while the tokens' are near.
#pragma once

#include "kernels/matmul_decode.inl.h"

namespace pygrok {
namespace {

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

// Blocks [b, b + count) of all rows.
template <class Codec>
void MultiplyChunk(const MatmulArgs& args, size_t b, size_t count, size_t activation_stride,
                   Scratch* scratch) {
  constexpr size_t kStep = kPanelsTogether * kLanes;
  auto* const panels = reinterpret_cast<typename Codec::Panel*>(scratch->panels);
  for (size_t row = 0; row < args.rows; row += kStep) {
    const size_t rows = Fewer(kStep, args.rows - row);
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
void MultiplyManyTokens(const MatmulArgs& args, size_t activation_stride) {
  auto* const scratch = reinterpret_cast<Scratch*>(args.scratch);
  const size_t blocks = args.k / kBlockValues;
  for (size_t b = 0; b < blocks; b += kChunkBlocks) {
    MultiplyChunk<Codec>(args, b, Fewer(kChunkBlocks, blocks - b), activation_stride, scratch);
  }
}

template <class Codec>
void MatmulQ8(const MatmulArgs& args) {
  if (args.n == 0) return;
  const size_t stride = ActivationRowBytes(ActivationFormat::kQ8, args.k);
  if (args.n <= kDirectTokens) {
    MultiplyStreams<Codec>(args, stride, reinterpret_cast<Scratch*>(args.scratch));
  } else {
    MultiplyManyTokens<Codec>(args, stride);
  }
}

}  // namespace
}  // namespace pygrok
