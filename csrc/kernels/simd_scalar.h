// The vocabulary of the kernel bodies in portable C++: the reference for every other instruction set, and
// the page to read before writing a new one (docs/kernels.md). Four lanes, so that compilers can keep them in
// a register.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/activations.h"

namespace pygrok {
namespace {

constexpr size_t kLanes = 4;  // floats in a vector, and weight rows side by side in an integer matmul
constexpr size_t kDirectTokens =
    2;                             // up to this many tokens, weights go from the file straight into registers
constexpr size_t kTileTokens = 4;  // tokens that share one pass over unpacked weights
constexpr size_t kPanelsTogether = 1;  // groups of kLanes rows that share it too

struct F32 {
  float lane[kLanes];
};
// Four consecutive values of each of kLanes rows.
struct Bytes {
  uint8_t byte[kLanes * 4];
};
struct I32 {
  int32_t lane[kLanes];
};

// --- floats: load, store (N: the first n lanes only, the rest are zero or untouched), arithmetic ---

inline float BitsToFloat(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t FloatToBits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline F32 Set(float x) {
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) r.lane[i] = x;
  return r;
}
inline F32 Zero() { return Set(0.0f); }
inline F32 LoadN(const void* p, size_t n) {
  F32 r = Zero();
  __builtin_memcpy(r.lane, p, n * sizeof(float));
  return r;
}
inline F32 Load(const void* p) {
  F32 r;
  __builtin_memcpy(r.lane, p, sizeof r.lane);
  return r;
}
inline void StoreN(float* p, F32 x, size_t n) { __builtin_memcpy(p, x.lane, n * sizeof(float)); }
inline void Store(float* p, F32 x) { __builtin_memcpy(p, x.lane, sizeof x.lane); }

inline F32 Add(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline F32 Sub(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) a.lane[i] -= b.lane[i];
  return a;
}
inline F32 Mul(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) a.lane[i] *= b.lane[i];
  return a;
}
inline F32 Div(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) a.lane[i] /= b.lane[i];
  return a;
}
// a * b + c, rounded once where that is cheap.
inline F32 MulAdd(F32 a, F32 b, F32 c) { return Add(Mul(a, b), c); }
// a * b + c, rounded once everywhere.
inline F32 Fma(F32 a, F32 b, F32 c) {
  for (size_t i = 0; i < kLanes; ++i) c.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return c;
}
// If one operand is a NaN, the second is returned.
inline F32 Min(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) b.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}
inline F32 Max(F32 a, F32 b) {
  for (size_t i = 0; i < kLanes; ++i) b.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}
// To the nearest integer, ties to even, for |x| < 2^22: the sum has no bits left for a fraction.
inline F32 Round(F32 x) {
  for (size_t i = 0; i < kLanes; ++i) x.lane[i] = (x.lane[i] + 0x1.8p23f) - 0x1.8p23f;
  return x;
}
// x * 2^n for whole n in [-252, 254], in two factors so that subnormal results are right.
inline F32 Scale2(F32 x, F32 n) {
  for (size_t i = 0; i < kLanes; ++i) {
    const int32_t e = n.lane[i] == n.lane[i] ? static_cast<int32_t>(n.lane[i]) : 0;
    const int32_t half = e / 2;
    x.lane[i] = x.lane[i] * BitsToFloat(static_cast<uint32_t>(half + 127) << 23) *
                BitsToFloat(static_cast<uint32_t>(e - half + 127) << 23);
  }
  return x;
}
// Lane i of the result is the sum of the lanes of v[i], added in one order for every i.
inline F32 SumEach(const F32 v[kLanes]) {
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) {
    r.lane[i] = (v[i].lane[0] + v[i].lane[2]) + (v[i].lane[1] + v[i].lane[3]);
  }
  return r;
}

// --- 16-bit floats in memory ---

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return BitsToFloat(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x0400) return BitsToFloat(sign | ((magnitude << 13) + (112u << 23)));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal: exact
  return sign != 0 ? -value : value;
}
// Rounds to nearest even; NaNs stay NaNs.
inline uint16_t FloatToHalf(float x) {
  const uint32_t bits = FloatToBits(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | (magnitude >> 13 & 0x3ff);
  } else if (magnitude >= 0x477ff000) {  // from halfway above the largest half
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal half: adding 0.5 leaves its bits at the bottom
    half = FloatToBits(BitsToFloat(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - (112u << 23) + 0x0fff + (magnitude >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}
inline uint16_t FloatToBf16(float x) {
  const uint32_t bits = FloatToBits(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline F32 LoadF16N(const void* p, size_t n) {
  uint16_t half[kLanes] = {};
  __builtin_memcpy(half, p, n * sizeof(uint16_t));
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) r.lane[i] = HalfToFloat(half[i]);
  return r;
}
inline F32 LoadF16(const void* p) { return LoadF16N(p, kLanes); }
inline F32 LoadBf16N(const void* p, size_t n) {
  uint16_t bf16[kLanes] = {};
  __builtin_memcpy(bf16, p, n * sizeof(uint16_t));
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) r.lane[i] = BitsToFloat(static_cast<uint32_t>(bf16[i]) << 16);
  return r;
}
inline F32 LoadBf16(const void* p) { return LoadBf16N(p, kLanes); }
inline void StoreF16N(void* p, F32 x, size_t n) {
  uint16_t half[kLanes];
  for (size_t i = 0; i < kLanes; ++i) half[i] = FloatToHalf(x.lane[i]);
  __builtin_memcpy(p, half, n * sizeof(uint16_t));
}
inline void StoreBf16N(void* p, F32 x, size_t n) {
  uint16_t bf16[kLanes];
  for (size_t i = 0; i < kLanes; ++i) bf16[i] = FloatToBf16(x.lane[i]);
  __builtin_memcpy(p, bf16, n * sizeof(uint16_t));
}

// --- integers ---

// out[j] = bytes 4j .. 4j + 3 of the 16 bytes at first + r * stride, for every row r < kLanes.
inline void LoadRows16(const std::byte* first, size_t stride, Bytes out[4]) {
  for (size_t r = 0; r < kLanes; ++r) {
    for (size_t j = 0; j < 4; ++j) __builtin_memcpy(out[j].byte + r * 4, first + r * stride + j * 4, 4);
  }
}
inline Bytes LoadBytes(const void* p) {
  Bytes r;
  __builtin_memcpy(r.byte, p, sizeof r.byte);
  return r;
}
// The 4 bytes at first + r * stride, for every row r < kLanes.
inline Bytes LoadRows4(const std::byte* first, size_t stride) {
  uint32_t words[kLanes];
  for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(words + r, first + r * stride, sizeof(uint32_t));
  return LoadBytes(words);
}
inline void StoreBytes(void* p, Bytes x) { __builtin_memcpy(p, x.byte, sizeof x.byte); }
inline Bytes NoBytes() { return {}; }
inline Bytes Xor(Bytes a, Bytes b) {
  for (size_t i = 0; i < sizeof a.byte; ++i) a.byte[i] = a.byte[i] ^ b.byte[i];
  return a;
}
inline Bytes LowNibbles(Bytes x) {
  for (uint8_t& b : x.byte) b = b & 15;
  return x;
}
inline Bytes HighNibbles(Bytes x) {
  for (uint8_t& b : x.byte) b = b >> 4;
  return x;
}
inline Bytes And(Bytes a, Bytes b) {
  for (size_t i = 0; i < sizeof a.byte; ++i) a.byte[i] = a.byte[i] & b.byte[i];
  return a;
}
inline Bytes Or(Bytes a, Bytes b) {
  for (size_t i = 0; i < sizeof a.byte; ++i) a.byte[i] = a.byte[i] | b.byte[i];
  return a;
}
// Byte by byte, without carries.
inline Bytes SubBytes(Bytes a, Bytes b) {
  for (size_t i = 0; i < sizeof a.byte; ++i) a.byte[i] = static_cast<uint8_t>(a.byte[i] - b.byte[i]);
  return a;
}
inline Bytes SplatByte(int value) {
  Bytes r;
  for (uint8_t& b : r.byte) b = static_cast<uint8_t>(value);
  return r;
}
// Of the 32 bits of each lane; bits pass from byte to byte.
template <int kBits>
Bytes ShiftRight(Bytes x) {
  for (size_t r = 0; r < kLanes; ++r) {
    uint32_t lane;
    __builtin_memcpy(&lane, x.byte + r * 4, sizeof lane);
    lane >>= kBits;
    __builtin_memcpy(x.byte + r * 4, &lane, sizeof lane);
  }
  return x;
}
template <int kBits>
Bytes ShiftLeft(Bytes x) {
  for (size_t r = 0; r < kLanes; ++r) {
    uint32_t lane;
    __builtin_memcpy(&lane, x.byte + r * 4, sizeof lane);
    lane <<= kBits;
    __builtin_memcpy(x.byte + r * 4, &lane, sizeof lane);
  }
  return x;
}
// Byte i of each lane is 16 if bit kFirst + i of the lane is set, else 0; kFirst is a multiple of 4.
template <int kFirst>
Bytes SpreadBits(Bytes x) {
  const Bytes word = ShiftRight<kFirst>(x);
  for (size_t i = 0; i < sizeof x.byte; ++i)
    x.byte[i] = static_cast<uint8_t>((word.byte[i / 4 * 4] >> (i % 4) & 1) * 16);
  return x;
}
// table[i] for every byte i < 16.
inline Bytes Lookup(const int8_t table[16], Bytes x) {
  for (uint8_t& b : x.byte) b = static_cast<uint8_t>(table[b & 15]);
  return x;
}
// Byte kByte of each lane as a number, and half kHalf of each lane as a 16-bit float.
template <int kByte>
F32 UnsignedByte(Bytes x) {
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) r.lane[i] = static_cast<float>(x.byte[i * 4 + kByte]);
  return r;
}
template <int kByte>
F32 SignedByte(Bytes x) {
  F32 r;
  for (size_t i = 0; i < kLanes; ++i)
    r.lane[i] = static_cast<float>(static_cast<int8_t>(x.byte[i * 4 + kByte]));
  return r;
}
template <int kHalf>
F32 HalfFloat(Bytes x) {
  F32 r;
  for (size_t i = 0; i < kLanes; ++i) {
    uint16_t half;
    __builtin_memcpy(&half, x.byte + i * 4 + kHalf * 2, sizeof half);
    r.lane[i] = HalfToFloat(half);
  }
  return r;
}
// Four bytes, the same in every lane.
inline Bytes Broadcast4(const int8_t* a) {
  Bytes r;
  for (size_t i = 0; i < kLanes; ++i) __builtin_memcpy(r.byte + i * 4, a, 4);
  return r;
}

// Dot products of 32 values or a part of them: groups of four weights per row, one Step each, against one
// token's values, in one chain or joined from several. The result is exact, offset included. `Pack` brings
// weights into the form that Step takes; kPart is 0 or 1 for the halves of a block, kWhole for all of it.
struct DotSigned {  // any int8
  using Acc = I32;
  static Acc Nothing() { return {}; }
  static Acc Join(Acc a, Acc b) {
    for (size_t i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t kPart>
  static Acc Init(const ActivationBlock&) {
    return {};
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    for (size_t r = 0; r < kLanes; ++r) {
      for (size_t i = 0; i < 4; ++i)
        acc.lane[r] += static_cast<int8_t>(w.byte[r * 4 + i]) * static_cast<int8_t>(a.byte[r * 4 + i]);
    }
    return acc;
  }
  static F32 Finish(Acc acc, const ActivationBlock&) {
    F32 r;
    for (size_t i = 0; i < kLanes; ++i) r.lane[i] = static_cast<float>(acc.lane[i]);
    return r;
  }
};
struct DotCode {  // 0..31, or 0..63 in halves of a block
  using Acc = I32;
  static Acc Nothing() { return {}; }
  static Acc Join(Acc a, Acc b) { return DotSigned::Join(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t kPart>
  static Acc Init(const ActivationBlock&) {
    return {};
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    for (size_t r = 0; r < kLanes; ++r) {
      for (size_t i = 0; i < 4; ++i)
        acc.lane[r] += w.byte[r * 4 + i] * static_cast<int8_t>(a.byte[r * 4 + i]);
    }
    return acc;
  }
  static F32 Finish(Acc acc, const ActivationBlock& a) { return DotSigned::Finish(acc, a); }
};
struct DotNibble {  // 0..15, standing for -8..7; whole blocks only
  using Acc = I32;
  static Acc Nothing() { return {}; }
  static Acc Join(Acc a, Acc b) { return DotSigned::Join(a, b); }
  template <size_t kPart>
  static Acc Init(const ActivationBlock& a) {
    Acc acc;
    for (int32_t& lane : acc.lane) lane = a.minus_8_sum;
    return acc;
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) { return DotCode::Step(acc, w, a); }
  static F32 Finish(Acc acc, const ActivationBlock& a) { return DotSigned::Finish(acc, a); }
};

// The bits of the largest magnitude of 32 values; NaN and infinity compare above all finite ones.
inline uint32_t MaxMagnitudeBits(const float* x) {
  uint32_t max = 0;
  for (size_t i = 0; i < kBlockValues; ++i) {
    const uint32_t bits = FloatToBits(x[i]) & 0x7fffffff;
    max = bits > max ? bits : max;
  }
  return max;
}
// values[i] = x[i] * scale to the nearest integer, ties to even (|x * scale| < 128); returns their sum.
inline int32_t QuantizeBlock(const float* x, float scale, int8_t* values) {
  int32_t sum = 0;
  for (size_t i = 0; i < kBlockValues; ++i) {
    const int32_t q = static_cast<int32_t>((x[i] * scale + 0x1.8p23f) - 0x1.8p23f);
    values[i] = static_cast<int8_t>(q);
    sum += q;
  }
  return sum;
}

// --- the rest ---

// Brings a cache line near, if the address is readable; else does nothing.
inline void Prefetch(uintptr_t) {}
// x, of which the compiler now knows nothing.
inline I32 Forget(I32 x) {
  for (int32_t& lane : x.lane) __asm__ volatile("" : "+r"(lane));
  return x;
}
inline Bytes Forget(Bytes x) {
  __asm__ volatile("" : "+m"(x));
  return x;
}
inline int32_t FirstLane(I32 x) { return x.lane[0]; }

}  // namespace
}  // namespace pygrok

#include "kernels/codewords_scalar.h"  // builds on the above
