// Float weights times float activations.
// Include after formats.inl.h.
//
// An output has one vector of partial sums, filled along k in rising order and then summed in the one order
// of SumEach: tiles of any shape give the same bits.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kTileRows = 4;
constexpr size_t kTileColumns = kLanes / kTileRows;  // so that one SumEach finishes a tile
constexpr size_t kTokenChunk = 32;  // tokens whose activations stay in cache while rows go by

// How a weight format is multiplied: vectors of kStep values of either side, and a multiply-add of them.
template <class Format>
struct FloatDot {
  static constexpr size_t kStep = kLanes;
  static constexpr size_t kWeightBytes = Format::kBytes;
  static constexpr size_t kActivationBytes = 4;
  static constexpr ActivationFormat kActivation = ActivationFormat::kF32;
  using Weight = F32;
  using Activation = F32;
  static F32 Weights(const std::byte* p) { return Format::Read(p); }
  static F32 WeightsN(const std::byte* p, size_t n) { return Format::ReadN(p, n); }
  static F32 Activations(const std::byte* p) { return Load(p); }
  static F32 ActivationsN(const std::byte* p, size_t n) { return LoadN(p, n); }
  static F32 Step(F32 acc, F32 w, F32 a) { return MulAdd(w, a, acc); }
};

// out[t * R + r] = w[r] . a[t], k values each; out has kLanes entries.
template <class Dot, size_t R, size_t T>
void DotTile(const std::byte* const* w, const std::byte* const* a, size_t k, float* out) {
  static_assert(R * T <= kLanes);
  F32 acc[kLanes];
#pragma GCC unroll 16
  for (size_t i = 0; i < kLanes; ++i) acc[i] = Zero();
  size_t i = 0;
  for (; i + Dot::kStep <= k; i += Dot::kStep) {
    typename Dot::Weight wv[R];
#pragma GCC unroll 4
    for (size_t r = 0; r < R; ++r) wv[r] = Dot::Weights(w[r] + i * Dot::kWeightBytes);
#pragma GCC unroll 4
    for (size_t t = 0; t < T; ++t) {
      const typename Dot::Activation av = Dot::Activations(a[t] + i * Dot::kActivationBytes);
#pragma GCC unroll 4
      for (size_t r = 0; r < R; ++r) acc[t * R + r] = Dot::Step(acc[t * R + r], wv[r], av);
    }
  }
  if (i < k) {
#pragma GCC unroll 4
    for (size_t t = 0; t < T; ++t) {
      const typename Dot::Activation av = Dot::ActivationsN(a[t] + i * Dot::kActivationBytes, k - i);
#pragma GCC unroll 4
      for (size_t r = 0; r < R; ++r) {
        const typename Dot::Weight wv = Dot::WeightsN(w[r] + i * Dot::kWeightBytes, k - i);
        acc[t * R + r] = Dot::Step(acc[t * R + r], wv, av);
      }
    }
  }
  Store(out, SumEach(acc));
}

template <class Dot, size_t T = kTileColumns>
void DotTileTokens(size_t tokens, const std::byte* const* w, const std::byte* const* a, size_t k,
                   float* out) {
  if constexpr (T > 1) {
    if (tokens < T) return DotTileTokens<Dot, T - 1>(tokens, w, a, k, out);
  }
  DotTile<Dot, kTileRows, T>(w, a, k, out);
}

template <class Dot>
void MatmulFloat(const MatmulArgs& args) {
  const size_t stride = ActivationRowBytes(Dot::kActivation, args.k);
  for (size_t chunk = 0; chunk < args.n; chunk += kTokenChunk) {
    const size_t chunk_end = Fewer(args.n, chunk + kTokenChunk);
    for (size_t row = 0; row < args.rows; row += kTileRows) {
      const size_t rows = Fewer(kTileRows, args.rows - row);
      const std::byte* w[kTileRows];
      for (size_t r = 0; r < kTileRows; ++r)
        w[r] = args.weights + (row + Fewer(r, rows - 1)) * args.row_bytes;
      for (size_t token = chunk; token < chunk_end; token += kTileColumns) {
        const size_t tokens = Fewer(kTileColumns, chunk_end - token);
        const std::byte* a[kTileColumns] = {};
        for (size_t t = 0; t < tokens; ++t) a[t] = args.activations + (token + t) * stride;
        float sums[kLanes];
        DotTileTokens<Dot>(tokens, w, a, args.k, sums);
        for (size_t t = 0; t < tokens; ++t) {
          float* out = args.out + (token + t) * args.out_stride + row;
          for (size_t r = 0; r < rows; ++r) out[r] = sums[t * kTileRows + r];
        }
      }
    }
  }
}

}  // namespace
}  // namespace pygrok
