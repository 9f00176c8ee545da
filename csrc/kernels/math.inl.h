// exp and tanh for vectors of floats. Include after a simd_*.h.
#pragma once

namespace pygrok {
namespace {

// x = n ln2 + r with |r| <= ln2 / 2, and e^r - 1 by its Taylor series to r^7, which leaves 5e-9.
struct ExpParts {
  F32 n;
  F32 expm1;
};

inline ExpParts SplitExp(F32 x) {
  constexpr float kLog2e = 1.44269504088896f;
  constexpr float kLn2High = 0.693359375f;  // 9 bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440054691e-4f;
  const F32 n = Round(Mul(x, Set(kLog2e)));
  const F32 r = MulAdd(n, Set(-kLn2Low), MulAdd(n, Set(-kLn2High), x));
  F32 p = Set(1.0f / 5040);
  p = MulAdd(p, r, Set(1.0f / 720));
  p = MulAdd(p, r, Set(1.0f / 120));
  p = MulAdd(p, r, Set(1.0f / 24));
  p = MulAdd(p, r, Set(1.0f / 6));
  p = MulAdd(p, r, Set(0.5f));
  return {n, MulAdd(Mul(p, r), r, r)};
}

// e^x to 2 units in the last place; 0 below -104, infinity above 89, NaN for NaN.
inline F32 Exp(F32 x) {
  const ExpParts e = SplitExp(Min(Set(89.0f), Max(Set(-104.0f), x)));
  return Scale2(Add(Set(1.0f), e.expm1), e.n);
}

// tanh(x) = (e^2x - 1) / (e^2x + 1). e^2x - 1 is put together so that nothing cancels near 0.
inline F32 Tanh(F32 x) {
  const ExpParts e = SplitExp(Min(Set(30.0f), Max(Set(-30.0f), Add(x, x))));
  const F32 power = Scale2(Set(1.0f), e.n);
  const F32 expm1 = MulAdd(power, e.expm1, Sub(power, Set(1.0f)));
  return Div(expm1, Add(expm1, Set(2.0f)));
}

inline float Sum(F32 x) {
  F32 v[kLanes];
  for (size_t i = 0; i < kLanes; ++i) v[i] = Zero();
  v[0] = x;
  float lanes[kLanes];
  Store(lanes, SumEach(v));
  return lanes[0];
}

}  // namespace
}  // namespace pygrok
