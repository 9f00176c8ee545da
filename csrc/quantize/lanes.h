// Sixteen values side by side: element i of each of sixteen rows. GCC and Clang turn the vector types into
// whatever registers the target has; every lane computes the same bits on each of them (nothing is summed
// across lanes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pygrok {

inline constexpr size_t kLanes = 16;

using F32x = float __attribute__((vector_size(4 * kLanes)));
using I32x = int32_t __attribute__((vector_size(4 * kLanes)));
using U32x = uint32_t __attribute__((vector_size(4 * kLanes)));
using U16x = uint16_t __attribute__((vector_size(2 * kLanes)));
using U8x = uint8_t __attribute__((vector_size(kLanes)));

// Everything here must be inlined: the including function decides the instruction set. References, since
// passing such vectors by value depends on it too.
#define PYGROK_LANES [[gnu::always_inline]] inline
#define PYGROK_LANES_LAMBDA __attribute__((always_inline))  // after a lambda's parameters

PYGROK_LANES void Load(const float* from, F32x& to) { std::memcpy(&to, from, sizeof(to)); }
PYGROK_LANES void Store(const F32x& from, float* to) { std::memcpy(to, &from, sizeof(from)); }
PYGROK_LANES void Fill(F32x& x, float value) { x = F32x{} + value; }

// Nearest integer, ties to even, for |x| < 2^22: the sum has no bits below one.
PYGROK_LANES void Round(F32x& x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  x = (x + kShift) - kShift;
}

// Comparisons and choices by sign bits: GCC falls back to single values for the operators when a vector is
// wider than the registers. Not for NaN; a - b is exact where its sign matters.
PYGROK_LANES void Less(const F32x& a, const F32x& b, I32x& mask) { mask = (I32x)(a - b) >> 31; }

PYGROK_LANES void Select(const I32x& mask, const F32x& yes, F32x& no_and_out) {
  no_and_out = (F32x)((mask & (I32x)yes) | (~mask & (I32x)no_and_out));
}

PYGROK_LANES void AtLeast(const F32x& low, F32x& x) {
  I32x below;
  Less(x, low, below);
  Select(below, low, x);
}

PYGROK_LANES void AtMost(const F32x& high, F32x& x) {
  I32x above;
  Less(high, x, above);
  Select(above, high, x);
}

PYGROK_LANES void Clamp(F32x& x, float low, float high) {
  AtLeast(F32x{} + low, x);
  AtMost(F32x{} + high, x);
}

// 1 / x, or 0 for values so small that products with it could overflow.
PYGROK_LANES void Invert(const F32x& x, F32x& inverse) {
  const I32x small = ((I32x)((U32x)x & 0x7fffffffu) - (27 << 23)) >> 31;  // |x| < 2^-100
  inverse = (F32x)(~small & (I32x)(1.0f / x));
}

// Integers of 0..255 as bytes.
PYGROK_LANES void StoreBytes(const F32x& x, uint8_t* to) {
  const U8x bytes = __builtin_convertvector(__builtin_convertvector(x, I32x), U8x);
  std::memcpy(to, &bytes, sizeof(bytes));
}

PYGROK_LANES void Magnitude(const F32x& x, F32x& out) { out = (F32x)((U32x)x & 0x7fffffffu); }

// float32 to the bits of float16, to nearest even; |x| <= 65504.
PYGROK_LANES void ToHalf(const F32x& x, U32x& out) {
  const U32x sign = ((U32x)x >> 16) & 0x8000u;
  const U32x magnitude = (U32x)x & 0x7fffffffu;
  // Below 2^-14 a half counts in steps of 2^-24; adding 0.5, whose own step is 2^-24, rounds to them.
  const U32x small = (U32x)((F32x)magnitude + 0.5f) - 0x3f000000u;
  const U32x normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const U32x is_small = (U32x)((I32x)(magnitude - (113u << 23)) >> 31);
  out = sign | (is_small & small) | (~is_small & normal);
}

// Bits of a finite float16 to float32, exact: the bits, moved into place, mean 2^-112 of the value.
PYGROK_LANES void FromHalf(const U32x& bits, F32x& out) {
  const F32x scaled = (F32x)((bits & 0x7fffu) << 13) * 0x1p112f;
  out = (F32x)((U32x)scaled | ((bits & 0x8000u) << 16));
}

// float32 to the bits of bfloat16, to nearest even; x is finite.
PYGROK_LANES void ToBf16(const F32x& x, U32x& out) {
  out = ((U32x)x + 0x7fffu + (((U32x)x >> 16) & 1u)) >> 16;
}

}  // namespace pygrok
