// Quantized weights times few tokens. Weights are read once, in kLanes streams side by side, unpacked
// kStretch blocks at a time and used at once from the first-level cache: decode waits for memory alone.
//
// A processor fetches ahead by itself along a stream, page by page, once it has seen a few lines of it. Rows
// of some 3 KB end before that pays, so a lane takes several rows that follow each other in the file: lane i
// of a group of kLanes * n rows computes rows i * n to i * n + n - 1, one after the other.
#pragma once

#include "kernels/panel_dots.inl.h"

namespace pygrok {
namespace {

constexpr size_t kStretch = kSuperBlocks;   // blocks unpacked at a time
constexpr size_t kStreamBytes = 64 * 1024;  // of a lane: from here on, longer is no faster
constexpr size_t kCacheWayBytes = 4096;     // lines so far apart share a set of the first-level cache
constexpr size_t kFetchAheadBytes = 512;

// Rows that follow each other in a lane, if `available` times kLanes rows are left: a power of two.
inline size_t RowsOfStream(size_t row_bytes, size_t available) {
  size_t rows = 1;
  while (2 * rows <= available && 2 * rows * row_bytes <= kStreamBytes) rows *= 2;
  while (rows > 1 && rows * row_bytes % kCacheWayBytes == 0) rows /= 2;
  return rows;
}

// Asks for kBytes of each of kLanes streams. An address, not a pointer: it may lie behind the weights.
template <size_t kBytes>
void FetchStreams(uintptr_t address, size_t stream_bytes) {
  for (size_t lane = 0; lane < kLanes; ++lane) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kBytes; i += 64) Prefetch(address + lane * stream_bytes + i);
  }
}

// One token, or one in three parts: what is unpacked stays in registers where it fits, instead of going
// through the cache.
template <class Codec, size_t T>
PYGROK_FLATTEN [[gnu::noinline]] void AddStretch(Rows rows, size_t blocks, const std::byte* a, size_t stride,
                                                 F32* sums) {
  constexpr size_t kUnpacked = Codec::kValues / kBlockValues;
  F32 acc[1][T];
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) acc[0][t] = sums[t];
  for (size_t b = 0; b < blocks; b += kUnpacked) {
    typename Codec::Panel panel[kUnpacked];
    Codec::Unpack(rows.first + BytesOf<Codec>(b), rows.stride, panel);
    const typename Codec::Panel* const panels[1] = {panel};
    for (size_t i = 0; i < kUnpacked; ++i, a += sizeof(ActivationBlock)) {
      AddBlock<1, T>(panels, i, a, stride, acc);
    }
  }
#pragma GCC unroll kUnroll
  for (size_t t = 0; t < T; ++t) sums[t] = acc[0][t];
}

// Where three parts are worth their own body: a block fits the registers.
template <class Codec>
constexpr bool kInThree = Codec::kValues == kBlockValues;

// Rows [row, row + kLanes * stream_rows), or as many as there are if stream_rows is 1.
template <class Codec>
void MultiplyGroup(const MatmulArgs& args, size_t row, size_t stream_rows, size_t activation_stride,
                   Scratch* scratch) {
  constexpr size_t kBytes = BytesOf<Codec>(kStretch);
  auto* const panel = reinterpret_cast<typename Codec::Panel*>(scratch->panels);
  const size_t blocks = args.k / kBlockValues;
  const size_t lanes = Fewer(kLanes, args.rows - row);
  const size_t stream_bytes = stream_rows * args.row_bytes;
  const std::byte* const group = args.weights + row * args.row_bytes;
  alignas(64) float sums[kDirectTokens * kLanes];
  for (size_t i = 0; i < stream_rows; ++i) {
    F32 direct[3] = {Zero(), Zero(), Zero()};
    for (size_t b = 0; b < blocks; b += kStretch) {
      const size_t count = Fewer(kStretch, blocks - b);
      const size_t at = i * args.row_bytes + BytesOf<Codec>(b);
      // Behind the end of the streams begin those of the next group.
      size_t ahead = at + kFetchAheadBytes;
      if (ahead >= stream_bytes) ahead += (kLanes - 1) * stream_bytes;
      FetchStreams<kBytes>(reinterpret_cast<uintptr_t>(group) + ahead, stream_bytes);
      const Rows from = CompleteRows<Codec>({group + at, stream_bytes}, lanes, count, scratch->rows);
      const std::byte* const activations = args.activations + b * sizeof(ActivationBlock);
      if (args.n == 1) {
        AddStretch<Codec, 1>(from, count, activations, activation_stride, direct);
      } else if (kInThree<Codec> && args.n == 3) {
        AddStretch<Codec, 3>(from, count, activations, activation_stride, direct);
      } else {
        UnpackPanel<Codec>(from, count, panel);
        AccumulateTokens<1, kDirectTokens>(
            args.n, panel, 0, {activations, activation_stride, count, b == 0, sums, kLanes, kLanes});
      }
    }
    if (args.n == 1 || (kInThree<Codec> && args.n == 3)) {
      for (size_t t = 0; t < args.n; ++t) Store(sums + t * kLanes, direct[t]);
    }
    for (size_t t = 0; t < args.n; ++t) {
      float* const out = args.out + t * args.out_stride + row + i;
      for (size_t lane = 0; lane < lanes; ++lane) out[lane * stream_rows] = sums[t * kLanes + lane];
    }
  }
}

template <class Codec>
void MultiplyStreams(const MatmulArgs& args, size_t activation_stride, Scratch* scratch) {
  for (size_t row = 0; row < args.rows;) {
    const size_t stream_rows = RowsOfStream(args.row_bytes, (args.rows - row) / kLanes);
    MultiplyGroup<Codec>(args, row, stream_rows, activation_stride, scratch);
    row += kLanes * stream_rows;
  }
}

}  // namespace
}  // namespace pygrok
