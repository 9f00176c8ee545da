// The vocabulary (see simd_scalar.h) in AVX-512 F, BW, DQ, VL, with VNNI and BF16 dot products where the
// including file is compiled for them.
#pragma once

// GCC 12 takes its own _mm512_undefined_ps for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

constexpr size_t kLanes = 16;
#ifdef __AVX512VNNI__
constexpr size_t kDirectTokens = 12;
constexpr size_t kTileTokens = 6;
#else
constexpr size_t kDirectTokens = 4;
constexpr size_t kTileTokens = 4;
#endif
constexpr size_t kPanelsTogether = 2;

using F32 = __m512;
using Bytes = __m512i;

// --- floats ---

inline __mmask16 LaneMask(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline F32 Set(float x) { return _mm512_set1_ps(x); }
inline F32 Zero() { return _mm512_setzero_ps(); }
inline F32 Load(const void* p) { return _mm512_loadu_ps(p); }
inline F32 LoadN(const void* p, size_t n) { return _mm512_maskz_loadu_ps(LaneMask(n), p); }
inline void Store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
inline void StoreN(float* p, F32 x, size_t n) { _mm512_mask_storeu_ps(p, LaneMask(n), x); }

inline F32 Add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 Sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 Mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 Div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 MulAdd(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 Fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 Min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 Max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 Round(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 Scale2(F32 x, F32 n) { return _mm512_scalef_ps(x, n); }

// [a0+a2, b0+b2, a1+a3, b1+b3] in each quarter.
inline F32 PairSums(F32 a, F32 b) { return Add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); }
// Quarter i holds v[0..3] summed over their own quarters i.
inline F32 QuadSums(const F32 v[4]) {
  const __m512d ab = _mm512_castps_pd(PairSums(v[0], v[1])), cd = _mm512_castps_pd(PairSums(v[2], v[3]));
  return Add(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
}
inline F32 SumEach(const F32 v[kLanes]) {
  const F32 a = QuadSums(v), b = QuadSums(v + 4), c = QuadSums(v + 8), d = QuadSums(v + 12);
  const F32 ab = Add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const F32 cd = Add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// --- 16-bit floats in memory ---

inline __m256i LoadWords(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i LoadWordsN(const void* p, size_t n) { return _mm256_maskz_loadu_epi16(LaneMask(n), p); }
inline F32 WidenBf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

inline F32 LoadF16(const void* p) { return _mm512_cvtph_ps(LoadWords(p)); }
inline F32 LoadF16N(const void* p, size_t n) { return _mm512_cvtph_ps(LoadWordsN(p, n)); }
inline F32 LoadBf16(const void* p) { return WidenBf16(LoadWords(p)); }
inline F32 LoadBf16N(const void* p, size_t n) { return WidenBf16(LoadWordsN(p, n)); }
inline void StoreF16N(void* p, F32 x, size_t n) {
  _mm256_mask_storeu_epi16(p, LaneMask(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Integer rounding: adding 0x7fff plus the lowest kept bit carries exactly when nearest-even rounds up. (The
// BF16 instruction would flush subnormals.)
inline void StoreBf16N(void* p, F32 x, size_t n) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i words = _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, high, _mm512_set1_epi32(0x40));
  _mm256_mask_storeu_epi16(p, LaneMask(n), _mm512_cvtepi32_epi16(words));
}

// --- integers ---

// Rows r, r + 4, r + 8, r + 12 in the quarters of a vector, then a 4 x 4 transposition of dwords in each
// quarter.
inline void LoadRows16(const std::byte* first, size_t stride, Bytes out[4]) {
  __m512i v[4];
#pragma GCC unroll 4
  for (size_t r = 0; r < 4; ++r) {
    const std::byte* row = first + r * stride;
    const auto piece = [row, stride](size_t i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i * 4 * stride));
    };
    v[r] = _mm512_castsi128_si512(piece(0));
    v[r] = _mm512_inserti32x4(v[r], piece(1), 1);
    v[r] = _mm512_inserti32x4(v[r], piece(2), 2);
    v[r] = _mm512_inserti32x4(v[r], piece(3), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  out[0] = _mm512_unpacklo_epi64(a, c);
  out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d);
  out[3] = _mm512_unpackhi_epi64(b, d);
}
inline Bytes LoadBytes(const void* p) { return _mm512_loadu_si512(p); }
// A gather: many narrow stores to memory and one wide load would wait for each other.
inline Bytes LoadRows4(const std::byte* first, size_t stride) {
  if (stride >= size_t{1} << 27) {  // offsets are 32 bits wide
    uint32_t words[kLanes];
    for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(words + r, first + r * stride, sizeof(uint32_t));
    return LoadBytes(words);
  }
  const __m512i row = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_i32gather_epi32(_mm512_mullo_epi32(row, _mm512_set1_epi32(static_cast<int>(stride))), first,
                                1);
}
inline void StoreBytes(void* p, Bytes x) { _mm512_storeu_si512(p, x); }
inline Bytes NoBytes() { return _mm512_setzero_si512(); }
inline Bytes Xor(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
inline Bytes LowNibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes HighNibbles(Bytes x) { return LowNibbles(_mm512_srli_epi16(x, 4)); }

inline Bytes And(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
inline Bytes Or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
inline Bytes SubBytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
inline Bytes SplatByte(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
template <int kBits>
Bytes ShiftRight(Bytes x) {
  return _mm512_srli_epi32(x, kBits);
}
template <int kBits>
Bytes ShiftLeft(Bytes x) {
  return _mm512_slli_epi32(x, kBits);
}
template <int kFirst>
Bytes SpreadBits(Bytes x) {
  constexpr int kByte = kFirst / 8;
  constexpr uint32_t kBits = 0x08040201u << (kFirst % 8);
  const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  const __m512i order = _mm512_add_epi8(lanes, _mm512_set1_epi8(kByte));
  const __m512i bits = _mm512_set1_epi32(static_cast<int32_t>(kBits));
  return _mm512_maskz_set1_epi8(_mm512_test_epi8_mask(_mm512_shuffle_epi8(x, order), bits), 16);
}
inline Bytes Lookup(const int8_t table[16], Bytes x) {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), x);
}
template <int kByte>
F32 UnsignedByte(Bytes x) {
  return _mm512_cvtepi32_ps(And(ShiftRight<8 * kByte>(x), _mm512_set1_epi32(255)));
}
template <int kByte>
F32 SignedByte(Bytes x) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(ShiftLeft<24 - 8 * kByte>(x), 24));
}
template <int kHalf>
F32 HalfFloat(Bytes x) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(ShiftRight<16 * kHalf>(x)));
}

inline Bytes Broadcast4(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, sizeof four);
  return _mm512_set1_epi32(four);
}

#ifdef __AVX512VNNI__
inline Bytes DotBytes(Bytes acc, Bytes w, Bytes a) { return _mm512_dpbusd_epi32(acc, w, a); }
inline Bytes AddInts(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
inline Bytes SplatInt(int32_t x) { return _mm512_set1_epi32(x); }
inline F32 FloatsOf(Bytes x) { return _mm512_cvtepi32_ps(x); }
#else
inline __m512i WidenPairs(__m512i x) { return _mm512_madd_epi16(x, _mm512_set1_epi16(1)); }
// maddubs adds two products in 16 bits with saturation, which never sets in: activations are at most 127 in
// size (prepare.inl.h), so with |w| <= 128, also for hostile weights, a pair is at most 2 * 128 * 127 =
// 32512.
struct DotSigned {
  using Acc = __m512i;
  static Acc Nothing() { return _mm512_setzero_si512(); }
  static Acc Join(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    const __m512i signed_a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
    return _mm512_add_epi32(acc, WidenPairs(_mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_a)));
  }
  static F32 Finish(Acc acc, const ActivationBlock&) { return _mm512_cvtepi32_ps(acc); }
};
// All eight steps fit 16 bits: 8 * 2 * 15 * 127 = 30480.
struct DotNibble {
  using Acc = __m512i;
  static Acc Nothing() { return _mm512_setzero_si512(); }
  static Acc Join(Acc a, Acc b) { return _mm512_add_epi16(a, b); }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) { return _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, a)); }
  static F32 Finish(Acc acc, const ActivationBlock& a) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(WidenPairs(acc), _mm512_set1_epi32(a.minus_8_sum)));
  }
};
// A pair is at most 2 * 128 * 127 = 32512.
struct DotCode {
  using Acc = __m512i;
  static Acc Nothing() { return _mm512_setzero_si512(); }
  static Acc Join(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    return _mm512_add_epi32(acc, WidenPairs(_mm512_maddubs_epi16(w, a)));
  }
  static F32 Finish(Acc acc, const ActivationBlock&) { return _mm512_cvtepi32_ps(acc); }
};
#endif

inline uint32_t MaxMagnitudeBits(const float* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
  const __m512i b = _mm512_and_si512(_mm512_loadu_si512(x + kLanes), magnitude);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}
inline int32_t QuantizeBlock(const float* x, float scale, int8_t* values) {
  const __m512i a = _mm512_cvtps_epi32(Mul(Load(x), Set(scale)));
  const __m512i b = _mm512_cvtps_epi32(Mul(Load(x + kLanes), Set(scale)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm512_cvtepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values + kLanes), _mm512_cvtepi32_epi8(b));
  return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

inline void Prefetch(uintptr_t address) { _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T1); }
inline __m512i Forget(__m512i x) {
  __asm__ volatile("" : "+v"(x));
  return x;
}
inline int32_t FirstLane(__m512i x) { return _mm512_cvtsi512_si32(x); }

#ifdef __AVX512BF16__
// Replaces the float dot product for bfloat16 weights: activations in bfloat16 too, two products a lane.
#define PYGROK_BF16_DOT
struct Bf16Dot {
  static constexpr size_t kStep = 2 * kLanes;
  static constexpr size_t kWeightBytes = 2;
  static constexpr size_t kActivationBytes = 2;
  static constexpr ActivationFormat kActivation = ActivationFormat::kBf16;
  using Weight = __m512i;
  using Activation = __m512i;
  static __m512i Weights(const std::byte* p) { return _mm512_loadu_si512(p); }
  static __m512i WeightsN(const std::byte* p, size_t n) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << n) - 1), p);
  }
  static __m512i Activations(const std::byte* p) { return Weights(p); }
  static __m512i ActivationsN(const std::byte* p, size_t n) { return WeightsN(p, n); }
  static F32 Step(F32 acc, __m512i w, __m512i a) { return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)a); }
};
#endif

}  // namespace
}  // namespace pygrok

#ifdef __AVX512VNNI__
#include "kernels/dot_vnni.h"
#endif
#include "kernels/codewords_avx512.h"  // builds on the above
