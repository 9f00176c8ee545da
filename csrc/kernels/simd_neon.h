// The vocabulary (see simd_scalar.h) in AArch64's NEON, two registers to a vector, with the dot product
// instruction where the including file is compiled for it.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/activations.h"

namespace pygrok {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kTileTokens = 4;
constexpr size_t kDirectTokens = kTileTokens;
constexpr size_t kPanelsTogether = 1;

struct F32 {
  float32x4_t lo, hi;
};
struct Bytes {
  uint8x16_t lo, hi;
};
struct I32 {
  int32x4_t lo, hi;
};

// --- floats ---

inline F32 Set(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline F32 Zero() { return Set(0.0f); }
inline F32 Load(const void* p) {
  const float* x = static_cast<const float*>(p);
  return {vld1q_f32(x), vld1q_f32(x + 4)};
}
inline F32 LoadN(const void* p, size_t n) {
  if (n >= kLanes) return Load(p);
  float lanes[kLanes] = {};
  __builtin_memcpy(lanes, p, n * sizeof(float));
  return Load(lanes);
}
inline void Store(float* p, F32 x) {
  vst1q_f32(p, x.lo);
  vst1q_f32(p + 4, x.hi);
}
inline void StoreN(float* p, F32 x, size_t n) {
  if (n >= kLanes) return Store(p, x);
  float lanes[kLanes];
  Store(lanes, x);
  __builtin_memcpy(p, lanes, n * sizeof(float));
}

inline F32 Add(F32 a, F32 b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline F32 Sub(F32 a, F32 b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
inline F32 Mul(F32 a, F32 b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
inline F32 Div(F32 a, F32 b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
inline F32 Fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
inline F32 MulAdd(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
// Not vminq and vmaxq, whose result is a NaN if either operand is.
inline F32 Min(F32 a, F32 b) {
  return {vbslq_f32(vcltq_f32(a.lo, b.lo), a.lo, b.lo), vbslq_f32(vcltq_f32(a.hi, b.hi), a.hi, b.hi)};
}
inline F32 Max(F32 a, F32 b) {
  return {vbslq_f32(vcgtq_f32(a.lo, b.lo), a.lo, b.lo), vbslq_f32(vcgtq_f32(a.hi, b.hi), a.hi, b.hi)};
}
inline F32 Round(F32 x) { return {vrndnq_f32(x.lo), vrndnq_f32(x.hi)}; }

inline float32x4_t PowerOf2(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
inline float32x4_t Scale2(float32x4_t x, float32x4_t n) {
  const int32x4_t e = vcvtq_s32_f32(n);  // 0 for a NaN
  const int32x4_t half = vshrq_n_s32(e, 1);
  return vmulq_f32(vmulq_f32(x, PowerOf2(half)), PowerOf2(vsubq_s32(e, half)));
}
inline F32 Scale2(F32 x, F32 n) { return {Scale2(x.lo, n.lo), Scale2(x.hi, n.hi)}; }

inline float32x4_t QuadSums(const F32 v[4]) {
  const float32x4_t a = vaddq_f32(v[0].lo, v[0].hi), b = vaddq_f32(v[1].lo, v[1].hi);
  const float32x4_t c = vaddq_f32(v[2].lo, v[2].hi), d = vaddq_f32(v[3].lo, v[3].hi);
  return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}
inline F32 SumEach(const F32 v[kLanes]) { return {QuadSums(v), QuadSums(v + 4)}; }

// --- 16-bit floats in memory ---

inline uint16x8_t LoadWords(const void* p) {
  return vreinterpretq_u16_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
inline uint16x8_t LoadWordsN(const void* p, size_t n) {
  if (n >= kLanes) return LoadWords(p);
  uint16_t words[kLanes] = {};
  __builtin_memcpy(words, p, n * sizeof(uint16_t));
  return LoadWords(words);
}
inline void StoreWordsN(void* p, uint16x8_t x, size_t n) {
  if (n >= kLanes) return vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_u16(x));
  uint16_t words[kLanes];
  vst1q_u16(words, x);
  __builtin_memcpy(p, words, n * sizeof(uint16_t));
}
inline float32x4_t WidenF16(uint16x4_t x) { return vcvt_f32_f16(vreinterpret_f16_u16(x)); }
inline F32 WidenF16(uint16x8_t x) { return {WidenF16(vget_low_u16(x)), WidenF16(vget_high_u16(x))}; }
inline F32 WidenBf16(uint16x8_t x) {
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(x, 16))};
}

inline F32 LoadF16(const void* p) { return WidenF16(LoadWords(p)); }
inline F32 LoadF16N(const void* p, size_t n) { return WidenF16(LoadWordsN(p, n)); }
inline F32 LoadBf16(const void* p) { return WidenBf16(LoadWords(p)); }
inline F32 LoadBf16N(const void* p, size_t n) { return WidenBf16(LoadWordsN(p, n)); }
inline void StoreF16N(void* p, F32 x, size_t n) {
  const uint16x4_t lo = vreinterpret_u16_f16(vcvt_f16_f32(x.lo)),
                   hi = vreinterpret_u16_f16(vcvt_f16_f32(x.hi));
  StoreWordsN(p, vcombine_u16(lo, hi), n);
}
// Integer rounding: adding 0x7fff plus the lowest kept bit carries exactly when nearest-even rounds up.
inline uint16x4_t RoundBf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), high = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), vshrq_n_u32(sum, 16), quiet));
}
inline void StoreBf16N(void* p, F32 x, size_t n) {
  StoreWordsN(p, vcombine_u16(RoundBf16(x.lo), RoundBf16(x.hi)), n);
}

// --- integers ---

inline uint32x4_t AsWords(uint8x16_t x) { return vreinterpretq_u32_u8(x); }
inline uint8x16_t AsBytes(uint32x4_t x) { return vreinterpretq_u8_u32(x); }

// A 4 x 4 transposition of words: 16 bytes each of four rows.
inline void Load4Rows16(const std::byte* first, size_t stride, uint8x16_t out[4]) {
  const auto row = [first, stride](size_t r) {
    return AsWords(vld1q_u8(reinterpret_cast<const uint8_t*>(first + r * stride)));
  };
  const uint32x4_t r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
  const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r0, r1)),
                   b = vreinterpretq_u64_u32(vtrn2q_u32(r0, r1));
  const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r2, r3)),
                   d = vreinterpretq_u64_u32(vtrn2q_u32(r2, r3));
  out[0] = vreinterpretq_u8_u64(vtrn1q_u64(a, c));
  out[1] = vreinterpretq_u8_u64(vtrn1q_u64(b, d));
  out[2] = vreinterpretq_u8_u64(vtrn2q_u64(a, c));
  out[3] = vreinterpretq_u8_u64(vtrn2q_u64(b, d));
}
inline void LoadRows16(const std::byte* first, size_t stride, Bytes out[4]) {
  uint8x16_t lo[4], hi[4];
  Load4Rows16(first, stride, lo);
  Load4Rows16(first + 4 * stride, stride, hi);
#pragma GCC unroll 4
  for (size_t j = 0; j < 4; ++j) out[j] = {lo[j], hi[j]};
}
inline Bytes LoadBytes(const void* p) {
  const uint8_t* bytes = static_cast<const uint8_t*>(p);
  return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
}
inline uint32_t LoadWord(const std::byte* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}
// Four words, each loaded into its lane.
inline uint8x16_t JoinWords(const std::byte* a, const std::byte* b, const std::byte* c, const std::byte* d) {
  uint32x4_t words = vdupq_n_u32(LoadWord(a));
  words = vsetq_lane_u32(LoadWord(b), words, 1);
  words = vsetq_lane_u32(LoadWord(c), words, 2);
  return AsBytes(vsetq_lane_u32(LoadWord(d), words, 3));
}
inline Bytes LoadRows4(const std::byte* first, size_t stride) {
  const std::byte* const fifth = first + 4 * stride;
  return {JoinWords(first, first + stride, first + 2 * stride, first + 3 * stride),
          JoinWords(fifth, fifth + stride, fifth + 2 * stride, fifth + 3 * stride)};
}
inline void StoreBytes(void* p, Bytes x) {
  uint8_t* bytes = static_cast<uint8_t*>(p);
  vst1q_u8(bytes, x.lo);
  vst1q_u8(bytes + 16, x.hi);
}
inline Bytes SplatByte(int value) {
  const uint8x16_t x = vdupq_n_u8(static_cast<uint8_t>(value));
  return {x, x};
}
inline Bytes NoBytes() { return SplatByte(0); }
inline Bytes Xor(Bytes a, Bytes b) { return {veorq_u8(a.lo, b.lo), veorq_u8(a.hi, b.hi)}; }
inline Bytes And(Bytes a, Bytes b) { return {vandq_u8(a.lo, b.lo), vandq_u8(a.hi, b.hi)}; }
inline Bytes Or(Bytes a, Bytes b) { return {vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)}; }
inline Bytes SubBytes(Bytes a, Bytes b) { return {vsubq_u8(a.lo, b.lo), vsubq_u8(a.hi, b.hi)}; }
inline Bytes LowNibbles(Bytes x) { return And(x, SplatByte(15)); }
inline Bytes HighNibbles(Bytes x) { return {vshrq_n_u8(x.lo, 4), vshrq_n_u8(x.hi, 4)}; }
template <int kBits>
Bytes ShiftRight(Bytes x) {
  if constexpr (kBits == 0) {
    return x;
  } else {
    return {AsBytes(vshrq_n_u32(AsWords(x.lo), kBits)), AsBytes(vshrq_n_u32(AsWords(x.hi), kBits))};
  }
}
template <int kBits>
Bytes ShiftLeft(Bytes x) {
  return {AsBytes(vshlq_n_u32(AsWords(x.lo), kBits)), AsBytes(vshlq_n_u32(AsWords(x.hi), kBits))};
}
// Byte i of each lane is 255 if bit kFirst + i of the lane is set, else 0; kFirst is a multiple of 4.
template <int kFirst>
Bytes BitMasks(Bytes x) {
  constexpr uint32_t kLane = 0x01010101u * (kFirst / 8);
  const uint32x4_t lanes = {kLane, kLane + 0x04040404, kLane + 0x08080808, kLane + 0x0c0c0c0c};
  const uint8x16_t order = AsBytes(lanes), bits = AsBytes(vdupq_n_u32(0x08040201u << (kFirst % 8)));
  return {vtstq_u8(vqtbl1q_u8(x.lo, order), bits), vtstq_u8(vqtbl1q_u8(x.hi, order), bits)};
}
template <int kFirst>
Bytes SpreadBits(Bytes x) {
  return And(BitMasks<kFirst>(x), SplatByte(16));
}
inline Bytes Lookup(const int8_t table[16], Bytes x) {
  const uint8x16_t values = vreinterpretq_u8_s8(vld1q_s8(table));
  return {vqtbl1q_u8(values, x.lo), vqtbl1q_u8(values, x.hi)};
}
template <int kByte>
F32 UnsignedByte(Bytes x) {
  const Bytes low = And(ShiftRight<8 * kByte>(x), {AsBytes(vdupq_n_u32(255)), AsBytes(vdupq_n_u32(255))});
  return {vcvtq_f32_u32(AsWords(low.lo)), vcvtq_f32_u32(AsWords(low.hi))};
}
inline float32x4_t SignedTop(uint8x16_t x) { return vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u8(x), 24)); }
template <int kByte>
F32 SignedByte(Bytes x) {
  const Bytes top = ShiftLeft<24 - 8 * kByte>(x);
  return {SignedTop(top.lo), SignedTop(top.hi)};
}
template <int kHalf>
F32 HalfFloat(Bytes x) {
  const Bytes low = ShiftRight<16 * kHalf>(x);
  return {WidenF16(vmovn_u32(AsWords(low.lo))), WidenF16(vmovn_u32(AsWords(low.hi)))};
}
inline Bytes Broadcast4(const int8_t* a) {
  uint32_t four;
  __builtin_memcpy(&four, a, sizeof four);
  const uint8x16_t x = AsBytes(vdupq_n_u32(four));
  return {x, x};
}

inline F32 ToFloat(I32 x) { return {vcvtq_f32_s32(x.lo), vcvtq_f32_s32(x.hi)}; }
inline I32 SplatI32(int32_t value) { return {vdupq_n_s32(value), vdupq_n_s32(value)}; }
inline I32 AddI32(I32 a, I32 b) { return {vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)}; }
inline int8x16_t Signed(uint8x16_t x) { return vreinterpretq_s8_u8(x); }

}  // namespace
}  // namespace pygrok

// These build on the above.
#include "kernels/codewords_neon.h"
#include "kernels/dot_neon.h"
