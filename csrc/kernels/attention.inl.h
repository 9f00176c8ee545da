// Attention of some queries to a run of cached positions. Include after math.inl.h and matmul_float.inl.h.
//
// Nothing at or beyond a query's visible[i] touches its sums, not even as a product with zero: the cache
// there may be uninitialized. The order of every sum follows the position in the run alone.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kQueries = kTileColumns;  // that share one pass over keys and values
static_assert(kKvBlockPositions % kLanes == 0 && kKvBlockPositions % kTileRows == 0);

struct Scores {
  float p[kQueries][kKvBlockPositions];
};

// scores->p[i][j] = q[i] . k[j] for j < positions.
template <class Format>
void ScoreQueries(const float* q, size_t queries, const std::byte* k, size_t d, size_t positions,
                  Scores* scores) {
  const std::byte* a[kQueries] = {};
  for (size_t i = 0; i < queries; ++i) a[i] = reinterpret_cast<const std::byte*>(q + i * d);
  for (size_t j = 0; j < positions; j += kTileRows) {
    const size_t rows = Fewer(kTileRows, positions - j);
    const std::byte* w[kTileRows];
    for (size_t r = 0; r < kTileRows; ++r) w[r] = k + (j + Fewer(r, rows - 1)) * d * Format::kBytes;
    float sums[kLanes];
    DotTileTokens<FloatDot<Format>>(queries, w, a, d, sums);
    for (size_t i = 0; i < queries; ++i) {
      for (size_t r = 0; r < rows; ++r) scores->p[i][j + r] = sums[i * kTileRows + r];
    }
  }
}

// p = exp(cap * tanh(p / cap)) for the first `visible`, 0 for the others; returns their sum.
inline float Weigh(float* p, size_t visible, float cap) {
  const F32 to_unit = Set(1.0f / cap), to_cap = Set(cap);
  F32 sum = Zero();
  for (size_t j = 0; j < visible; j += kLanes) {
    const size_t n = Fewer(kLanes, visible - j);
    StoreN(p + j, Exp(Mul(to_cap, Tanh(Mul(LoadN(p + j, n), to_unit)))), n);
    sum = Add(sum, LoadN(p + j, n));
  }
  return Sum(sum);
}

// acc[i][0 .. C * kLanes) += p[i] * v over positions [begin, end), for Q queries.
template <class Format, size_t Q, size_t C>
void AddValues(const std::byte* v, size_t d, size_t begin, size_t end, const float* p, float* acc) {
  F32 sum[Q][C];
#pragma GCC unroll 4
  for (size_t i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (size_t c = 0; c < C; ++c) sum[i][c] = Load(acc + i * d + c * kLanes);
  }
  for (size_t j = begin; j < end; ++j) {
    const std::byte* row = v + j * d * Format::kBytes;
    F32 value[C];
#pragma GCC unroll 4
    for (size_t c = 0; c < C; ++c) value[c] = Format::Read(row + c * kLanes * Format::kBytes);
#pragma GCC unroll 4
    for (size_t i = 0; i < Q; ++i) {
      const F32 weight = Set(p[i * kKvBlockPositions + j]);
#pragma GCC unroll 4
      for (size_t c = 0; c < C; ++c) sum[i][c] = MulAdd(weight, value[c], sum[i][c]);
    }
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (size_t c = 0; c < C; ++c) Store(acc + i * d + c * kLanes, sum[i][c]);
  }
}

// All d columns of Q queries.
template <class Format, size_t Q>
void AddValueRows(const std::byte* v, size_t d, size_t begin, size_t end, const float* p, float* acc) {
  size_t c = 0;
  for (; c + 2 * kLanes <= d; c += 2 * kLanes) {
    AddValues<Format, Q, 2>(v + c * Format::kBytes, d, begin, end, p, acc + c);
  }
  for (; c < d; c += kLanes) {
    const size_t n = Fewer(kLanes, d - c);
    for (size_t i = 0; i < Q; ++i) {
      F32 sum = LoadN(acc + i * d + c, n);
      for (size_t j = begin; j < end; ++j) {
        const F32 value = Format::ReadN(v + (j * d + c) * Format::kBytes, n);
        sum = MulAdd(Set(p[i * kKvBlockPositions + j]), value, sum);
      }
      StoreN(acc + i * d + c, sum, n);
    }
  }
}

template <class Format, size_t Q = kQueries>
void AddValueRowsOf(size_t queries, const std::byte* v, size_t d, size_t end, const float* p, float* acc) {
  if constexpr (Q > 1) {
    if (queries < Q) return AddValueRowsOf<Format, Q - 1>(queries, v, d, end, p, acc);
  }
  AddValueRows<Format, Q>(v, d, 0, end, p, acc);
}

template <class Format>
void Attend(const AttendArgs& args) {
  const std::byte* k = static_cast<const std::byte*>(args.k);
  const std::byte* v = static_cast<const std::byte*>(args.v);
  for (size_t first = 0; first < args.n_q; first += kQueries) {
    const size_t queries = Fewer(kQueries, args.n_q - first);
    size_t visible[kQueries] = {};
    size_t seen_by_one = 0, seen_by_all = kKvBlockPositions;
    for (size_t i = 0; i < queries; ++i) {
      visible[i] = Fewer(args.visible[first + i], args.positions);
      seen_by_one = visible[i] > seen_by_one ? visible[i] : seen_by_one;
      seen_by_all = Fewer(seen_by_all, visible[i]);
    }
    Scores scores;
    ScoreQueries<Format>(args.q + first * args.d, queries, k, args.d, seen_by_one, &scores);
    for (size_t i = 0; i < queries; ++i) args.sum[first + i] += Weigh(scores.p[i], visible[i], args.cap);
    float* acc = args.acc + first * args.d;
    AddValueRowsOf<Format>(queries, v, args.d, seen_by_all, scores.p[0], acc);
    for (size_t i = 0; i < queries; ++i) {
      if (visible[i] == seen_by_all) continue;
      AddValueRows<Format, 1>(v, args.d, seen_by_all, visible[i], scores.p[i], acc + i * args.d);
    }
  }
}

template <class Format>
void StoreKv(const float* x, size_t n, void* out) {
  WriteFloats<Format>(x, n, static_cast<std::byte*>(out));
}

template <class Format>
void LoadKv(const void* x, size_t n, float* out) {
  ReadFloats<Format>(static_cast<const std::byte*>(x), n, out);
}

}  // namespace
}  // namespace pygrok
