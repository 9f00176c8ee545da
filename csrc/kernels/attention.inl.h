// Attention of some queries to a run of cached positions. Include after math.inl.h and kv_panels.inl.h.
//
// Both products, queries by keys and weights by values, are one small matrix product on a panel: the
// panel's columns are the lanes, each output is one chain of multiply-adds in rising order, and no sum across
// lanes is needed. Queries share panels as they like: the order of a query's sums follows the position alone.
//
// Nothing at or beyond a query's visible[i] touches its sums, not even as a product with zero: the cache
// there may be uninitialized.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kQueries = 6;                    // that share the vectors of a panel's row in registers
constexpr size_t kVectors = kLanes == 8 ? 2 : 4;  // of a row: 24 sums, or 12 where there are 16 registers
constexpr size_t kManyQueries = 96;               // that share a panel in the first-level cache
static_assert(kPanel % (kVectors * kLanes) == 0 && kManyQueries % kQueries == 0);
static_assert(kLanes <= kWeightSums && kAccMultiple % kLanes == 0);

// Bytes that will be wanted next: each step of a product brings two lines of them nearer.
struct Ahead {
  uintptr_t at;
  uintptr_t end;
  void Step() {
    if (at >= end) return;
    Prefetch(at);
    Prefetch(at + 64);
    at += 128;
  }
};

// c[i][0 .. C * kLanes) += a[i][k] * panel[k] over k in [begin, end), for Q rows i.
template <size_t Q, size_t C>
void AddProducts(const float* a, size_t a_stride, const float* panel, size_t begin, size_t end, float* c,
                 size_t c_stride, Ahead& ahead) {
  Ahead next = ahead;
  F32 sum[Q][C];
#pragma GCC unroll 8
  for (size_t i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (size_t v = 0; v < C; ++v) sum[i][v] = Load(c + i * c_stride + v * kLanes);
  }
  for (size_t k = begin; k < end; ++k) {
    next.Step();
    F32 row[C];
#pragma GCC unroll 4
    for (size_t v = 0; v < C; ++v) row[v] = Load(panel + k * kPanel + v * kLanes);
#pragma GCC unroll 8
    for (size_t i = 0; i < Q; ++i) {
      const F32 factor = Set(a[i * a_stride + k]);
#pragma GCC unroll 4
      for (size_t v = 0; v < C; ++v) sum[i][v] = MulAdd(factor, row[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (size_t v = 0; v < C; ++v) Store(c + i * c_stride + v * kLanes, sum[i][v]);
  }
  ahead = next;
}

// All `columns` of the panel, rounded up to whole vectors.
template <size_t Q>
void AddPanel(const float* a, size_t a_stride, const float* panel, size_t begin, size_t end, size_t columns,
              float* c, size_t c_stride, Ahead& ahead) {
  size_t v = 0;
  for (; v + kVectors * kLanes <= columns; v += kVectors * kLanes) {
    AddProducts<Q, kVectors>(a, a_stride, panel + v, begin, end, c + v, c_stride, ahead);
  }
  for (; v < columns; v += kLanes) {
    AddProducts<Q, 1>(a, a_stride, panel + v, begin, end, c + v, c_stride, ahead);
  }
}

template <size_t Q = kQueries>
void AddPanelOf(size_t queries, const float* a, size_t a_stride, const float* panel, size_t begin, size_t end,
                size_t columns, float* c, size_t c_stride, Ahead& ahead) {
  if constexpr (Q > 1) {
    if (queries < Q) {
      return AddPanelOf<Q - 1>(queries, a, a_stride, panel, begin, end, columns, c, c_stride, ahead);
    }
  }
  AddPanel<Q>(a, a_stride, panel, begin, end, columns, c, c_stride, ahead);
}

// 2^f - 1 for |f| <= 1/2, within 1e-8 (kTerms 6) or 5e-7 (kTerms 5) of itself: f times the Chebyshev
// interpolation of (2^f - 1) / f.
template <size_t kTerms>
F32 Exp2Minus1(F32 f) {
  F32 p;
  if constexpr (kTerms == 6) {
    p = MulAdd(Set(1.545316294512069e-4f), f, Set(1.3390863364671234e-3f));
    p = MulAdd(p, f, Set(9.618082557277852e-3f));
    p = MulAdd(p, f, Set(5.550357114219078e-2f));
    p = MulAdd(p, f, Set(2.4022650760568126e-1f));
    p = MulAdd(p, f, Set(6.931471880262288e-1f));
  } else {
    p = MulAdd(Set(1.3381302537320797e-3f), f, Set(9.666368515385448e-3f));
    p = MulAdd(p, f, Set(5.550381013796457e-2f));
    p = MulAdd(p, f, Set(2.402234903802036e-1f));
    p = MulAdd(p, f, Set(6.931471805599453e-1f));
  }
  return Mul(p, f);
}

struct CapFactors {
  F32 to_power;                    // 2 log2(e) / cap
  F32 to_exponent, exponent_rest;  // cap * log2(e), and what its rounding left over
};

inline CapFactors FactorsOf(float cap) {
  constexpr double kLog2e = 1.4426950408889634;
  const double exponent = kLog2e * static_cast<double>(cap);
  const float rounded = static_cast<float>(exponent);
  return {Set(static_cast<float>(2 * kLog2e / static_cast<double>(cap))), Set(rounded),
          Set(static_cast<float>(exponent - static_cast<double>(rounded)))};
}

// exp(cap * tanh(s / cap)). tanh(u) = (e^2u - 1) / (e^2u + 1), with e^2u - 1 put together so that nothing
// cancels near 0; both powers are powers of 2, which takes one multiplication by log2(e) where a constant
// stands anyway. Beyond |2u log2(e)| = 30, tanh is 1 in float32.
inline F32 CappedWeight(F32 s, const CapFactors& cap) {
  const F32 x = Min(Set(30.0f), Max(Set(-30.0f), Mul(s, cap.to_power)));
  const F32 n = Round(x);
  const F32 power = Scale2(Set(1.0f), n);
  const F32 expm1 = MulAdd(power, Exp2Minus1<6>(Sub(x, n)), Sub(power, Set(1.0f)));
  const F32 bounded = Div(expm1, Add(expm1, Set(2.0f)));
  const F32 whole = Round(Mul(bounded, cap.to_exponent));
  // The exponent reaches 87: rounding it before its whole part is gone would cost as much as all the rest.
  const F32 high = MulAdd(bounded, cap.to_exponent, Sub(Zero(), whole));
  const F32 fraction = MulAdd(bounded, cap.exponent_rest, high);
  return Scale2(Add(Set(1.0f), Exp2Minus1<5>(fraction)), whole);
}

// Turns the first `visible` scores into weights, and adds them lane by lane to sums.
inline void Weigh(float* p, size_t visible, const CapFactors& factors, float* sums) {
  F32 sum = Load(sums);
  size_t j = 0;
  for (; j + kLanes <= visible; j += kLanes) {
    const F32 weight = CappedWeight(Load(p + j), factors);
    Store(p + j, weight);
    sum = Add(sum, weight);
  }
  if (j < visible) {
    const size_t n = visible - j;
    StoreN(p + j, CappedWeight(LoadN(p + j, n), factors), n);
    sum = Add(sum, LoadN(p + j, n));
  }
  Store(sums, sum);
}

// Up to kManyQueries queries from `first` on.
template <class Cache>
void AttendMany(const AttendArgs& args, size_t first, size_t queries) {
  alignas(64) float panel[kPanel * kPanel];
  alignas(64) float p[kManyQueries * kPanel];  // scores, then weights
  const size_t* visible = args.visible + first;
  // Of each kQueries queries, the most and the fewest positions that one sees.
  size_t most[kManyQueries / kQueries], fewest[kManyQueries / kQueries];
  size_t positions = 0;
  for (size_t i = 0; i < queries; ++i) {
    const size_t tile = i / kQueries;
    if (i % kQueries == 0 || visible[i] > most[tile]) most[tile] = visible[i];
    if (i % kQueries == 0 || visible[i] < fewest[tile]) fewest[tile] = visible[i];
    positions = visible[i] > positions ? visible[i] : positions;
  }
  if (positions == 0) return;
  for (size_t i = 0; i < queries * kPanel; i += kLanes) Store(p + i, Zero());

  const std::byte* k = static_cast<const std::byte*>(args.k);
  const std::byte* v = static_cast<const std::byte*>(args.v);
  const size_t run_bytes = Cache::RunBytes(args.d);
  Ahead ahead = {reinterpret_cast<uintptr_t>(v), reinterpret_cast<uintptr_t>(v) + run_bytes};
  for (size_t dim = 0; dim < args.d; dim += kPanel) {
    const size_t rows = Fewer(kPanel, args.d - dim);
    const float* keys = Cache::Keys(k, args.d, dim, rows, panel);
    for (size_t i = 0; i < queries; i += kQueries) {
      AddPanelOf(Fewer(kQueries, queries - i), args.q + (first + i) * args.d + dim, args.d, keys, 0, rows,
                 most[i / kQueries], p + i * kPanel, kPanel, ahead);
    }
  }
  const CapFactors factors = FactorsOf(args.cap);
  for (size_t i = 0; i < queries; ++i) {
    Weigh(p + i * kPanel, visible[i], factors, args.sum + (first + i) * kWeightSums);
  }
  ahead.at = reinterpret_cast<uintptr_t>(args.next_k);
  ahead.end = args.next_k == nullptr ? ahead.at : ahead.at + run_bytes;
  for (size_t column = 0; column < args.d; column += kPanel) {
    const size_t columns = Fewer(kPanel, args.d - column);
    Cache::Values(v, args.d, column, columns, positions, panel);
    for (size_t i = 0; i < queries; i += kQueries) {
      const size_t tile = i / kQueries, in_tile = Fewer(kQueries, queries - i);
      float* acc = args.acc + (first + i) * args.acc_stride + column;
      AddPanelOf(in_tile, p + i * kPanel, kPanel, panel, 0, fewest[tile], columns, acc, args.acc_stride,
                 ahead);
      for (size_t j = 0; j < in_tile && fewest[tile] < most[tile]; ++j) {
        AddPanel<1>(p + (i + j) * kPanel, kPanel, panel, fewest[tile], visible[i + j], columns,
                    acc + j * args.acc_stride, args.acc_stride, ahead);
      }
    }
  }
}

template <class Cache>
void Attend(const AttendArgs& args) {
  for (size_t first = 0; first < args.n_q; first += kManyQueries) {
    AttendMany<Cache>(args, first, Fewer(kManyQueries, args.n_q - first));
  }
}

}  // namespace
}  // namespace pygrok
