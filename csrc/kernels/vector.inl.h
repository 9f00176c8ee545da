// The vector operations between the matmuls. Include after math.inl.h.
#pragma once

namespace pygrok {
namespace {

void RmsNorm(const float* x, const float* scale, size_t n, float eps, float* out) {
  constexpr size_t kChains = 4;  // short chains of additions: fast, and accurate
  F32 acc[kChains];
  for (F32& a : acc) a = Zero();
  size_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    for (size_t c = 0; c < kChains; ++c) {
      const F32 v = Load(x + i + c * kLanes);
      acc[c] = MulAdd(v, v, acc[c]);
    }
  }
  for (; i < n; i += kLanes) {
    const F32 v = LoadN(x + i, Fewer(kLanes, n - i));
    acc[0] = MulAdd(v, v, acc[0]);
  }
  const float square_sum = Sum(Add(Add(acc[0], acc[1]), Add(acc[2], acc[3])));
  const F32 factor = Set(1.0f / __builtin_sqrtf(square_sum / static_cast<float>(n) + eps));
  for (i = 0; i + kLanes <= n; i += kLanes) {
    Store(out + i, Mul(Mul(Load(x + i), factor), Load(scale + i)));
  }
  if (i < n) StoreN(out + i, Mul(Mul(LoadN(x + i, n - i), factor), LoadN(scale + i, n - i)), n - i);
}

// gelu(x) = x/2 (1 + tanh u) = x / (1 + e^-2u) with u = sqrt(2/pi) (x + 0.044715 x^3): the second form does
// not cancel where tanh is near -1.
inline F32 Gelu(F32 x) {
  const F32 two_u = Mul(x, MulAdd(Mul(x, x), Set(2 * 0.7978845608f * 0.044715f), Set(2 * 0.7978845608f)));
  return Div(x, Add(Set(1.0f), Exp(Sub(Zero(), two_u))));
}

void GeluMul(const float* gate, const float* up, size_t n, float* out) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Mul(Gelu(Load(gate + i)), Load(up + i)));
  if (i < n) StoreN(out + i, Mul(Gelu(LoadN(gate + i, n - i)), LoadN(up + i, n - i)), n - i);
}

void Axpy(float weight, const float* x, size_t n, float* acc) {
  const F32 w = Set(weight);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(acc + i, MulAdd(w, Load(x + i), Load(acc + i)));
  if (i < n) StoreN(acc + i, MulAdd(w, LoadN(x + i, n - i), LoadN(acc + i, n - i)), n - i);
}

void Rope(float* x, const float* cos, const float* sin, size_t half) {
  for (size_t i = 0; i < half; i += kLanes) {
    const size_t n = Fewer(kLanes, half - i);
    const F32 c = LoadN(cos + i, n), s = LoadN(sin + i, n);
    const F32 x1 = LoadN(x + i, n), x2 = LoadN(x + half + i, n);
    StoreN(x + i, Sub(Mul(x1, c), Mul(x2, s)), n);
    StoreN(x + half + i, MulAdd(x2, c, Mul(x1, s)), n);
  }
}

// A NaN among x does not count; the callers' sums carry it on.
inline float MaxOf(const float* x, size_t n) {
  F32 max = Set(-__builtin_inff());
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) max = Max(Load(x + i), max);
  float lanes[kLanes];
  Store(lanes, max);
  float result = lanes[0];
  for (float lane : lanes) result = lane > result ? lane : result;
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

void Softmax(float* x, size_t n) {
  const F32 max = Set(MaxOf(x, n));
  F32 sum = Zero();
  for (size_t i = 0; i < n; i += kLanes) {
    const size_t lanes = Fewer(kLanes, n - i);
    StoreN(x + i, Exp(Sub(LoadN(x + i, lanes), max)), lanes);
    sum = Add(sum, LoadN(x + i, lanes));
  }
  const F32 total = Set(Sum(sum));
  for (size_t i = 0; i < n; i += kLanes) {
    const size_t lanes = Fewer(kLanes, n - i);
    StoreN(x + i, Div(LoadN(x + i, lanes), total), lanes);
  }
}

double LogSumExp(const float* x, size_t n) {
  const float max = MaxOf(x, n);
  if (max == -__builtin_inff()) {
    for (size_t i = 0; i < n; ++i) {
      if (x[i] != x[i]) return static_cast<double>(x[i]);
    }
    return static_cast<double>(max);  // log(0)
  }
  double sums[kLanes] = {};
  float lanes[kLanes];
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Store(lanes, Exp(Sub(Load(x + i), Set(max))));
    for (size_t l = 0; l < kLanes; ++l) sums[l] += static_cast<double>(lanes[l]);
  }
  Store(lanes, Exp(Sub(LoadN(x + i, n - i), Set(max))));
  for (size_t l = 0; l < n - i; ++l) sums[l] += static_cast<double>(lanes[l]);
  double sum = 0;
  for (double s : sums) sum += s;
  return static_cast<double>(max) + __builtin_log(sum);
}

}  // namespace
}  // namespace pygrok
