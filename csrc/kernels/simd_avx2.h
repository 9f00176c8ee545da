// The vocabulary (see simd_scalar.h) in AVX2 with FMA and F16C, with VNNI dot products where the including
// file is compiled for them.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/activations.h"

namespace pygrok {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kDirectTokens = 4;
#ifdef __AVXVNNI__
constexpr size_t kTileTokens = 3;
constexpr size_t kPanelsTogether = 2;
#else
constexpr size_t kTileTokens = 4;
constexpr size_t kPanelsTogether = 1;
#endif

using F32 = __m256;
using Bytes = __m256i;

// --- floats ---

inline __m256i LaneMask(size_t n) {
  alignas(32) static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
}

inline F32 Set(float x) { return _mm256_set1_ps(x); }
inline F32 Zero() { return _mm256_setzero_ps(); }
inline F32 Load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
inline F32 LoadN(const void* p, size_t n) {
  return _mm256_maskload_ps(static_cast<const float*>(p), LaneMask(n));
}
inline void Store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
inline void StoreN(float* p, F32 x, size_t n) { _mm256_maskstore_ps(p, LaneMask(n), x); }

inline F32 Add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
inline F32 Sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
inline F32 Mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
inline F32 Div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
inline F32 MulAdd(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 Fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 Min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
inline F32 Max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
inline F32 Round(F32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline F32 PowerOf2(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline F32 Scale2(F32 x, F32 n) {
  const __m256i e = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(e, 1);
  return Mul(Mul(x, PowerOf2(half)), PowerOf2(_mm256_sub_epi32(e, half)));
}

// [a0+a2, b0+b2, a1+a3, b1+b3] in each half.
inline F32 PairSums(F32 a, F32 b) { return Add(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); }
inline F32 QuadSums(const F32 v[4]) {
  const __m256d ab = _mm256_castps_pd(PairSums(v[0], v[1])), cd = _mm256_castps_pd(PairSums(v[2], v[3]));
  return Add(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
}
inline F32 SumEach(const F32 v[kLanes]) {
  const F32 a = QuadSums(v), b = QuadSums(v + 4);
  return Add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

// --- 16-bit floats in memory ---

inline __m128i LoadWords(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i LoadWordsN(const void* p, size_t n) {
  uint16_t words[kLanes] = {};
  __builtin_memcpy(words, p, n * sizeof(uint16_t));
  return LoadWords(words);
}
inline void StoreWordsN(void* p, __m128i x, size_t n) {
  if (n == kLanes) return _mm_storeu_si128(static_cast<__m128i*>(p), x);
  uint16_t words[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), x);
  __builtin_memcpy(p, words, n * sizeof(uint16_t));
}
inline F32 WidenBf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

inline F32 LoadF16(const void* p) { return _mm256_cvtph_ps(LoadWords(p)); }
inline F32 LoadF16N(const void* p, size_t n) { return _mm256_cvtph_ps(LoadWordsN(p, n)); }
inline F32 LoadBf16(const void* p) { return WidenBf16(LoadWords(p)); }
inline F32 LoadBf16N(const void* p, size_t n) { return WidenBf16(LoadWordsN(p, n)); }
inline void StoreF16N(void* p, F32 x, size_t n) {
  StoreWordsN(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), n);
}
// Integer rounding: adding 0x7fff plus the lowest kept bit carries exactly when nearest-even rounds up.
inline void StoreBf16N(void* p, F32 x, size_t n) {
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i words = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
  StoreWordsN(p, _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)), n);
}

// --- integers ---

// Rows r and r + 4 in the halves of a vector, then a 4 x 4 transposition of dwords in each half.
inline void LoadRows16(const std::byte* first, size_t stride, Bytes out[4]) {
  __m256i v[4];
#pragma GCC unroll 4
  for (size_t r = 0; r < 4; ++r) {
    v[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(LoadWords(first + r * stride)),
                                   LoadWords(first + (r + 4) * stride), 1);
  }
  const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  out[0] = _mm256_unpacklo_epi64(a, c);
  out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d);
  out[3] = _mm256_unpackhi_epi64(b, d);
}
inline Bytes LoadBytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// The 4 bytes at first + r * stride, for every row r < kLanes.
inline Bytes LoadRows4(const std::byte* first, size_t stride) {
  uint32_t words[kLanes];
  for (size_t r = 0; r < kLanes; ++r) __builtin_memcpy(words + r, first + r * stride, sizeof(uint32_t));
  return LoadBytes(words);
}
inline void StoreBytes(void* p, Bytes x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline Bytes NoBytes() { return _mm256_setzero_si256(); }
inline Bytes Xor(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
inline Bytes LowNibbles(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline Bytes HighNibbles(Bytes x) { return LowNibbles(_mm256_srli_epi16(x, 4)); }

inline Bytes And(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
inline Bytes Or(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
inline Bytes SubBytes(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
inline Bytes SplatByte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
template <int kBits>
Bytes ShiftRight(Bytes x) {
  return _mm256_srli_epi32(x, kBits);
}
template <int kBits>
Bytes ShiftLeft(Bytes x) {
  return _mm256_slli_epi32(x, kBits);
}
template <int kFirst>
Bytes SpreadBits(Bytes x) {
  constexpr int kByte = kFirst / 8;
  constexpr uint32_t kBits = 0x08040201u << (kFirst % 8);
  const __m256i order =
      _mm256_add_epi8(_mm256_set1_epi8(kByte), _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c,  //
                                                                 0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  const __m256i bits = _mm256_set1_epi32(static_cast<int32_t>(kBits));
  const __m256i set = _mm256_cmpeq_epi8(And(_mm256_shuffle_epi8(x, order), bits), bits);
  return And(set, _mm256_set1_epi8(16));
}
inline Bytes Lookup(const int8_t table[16], Bytes x) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(LoadWords(table)), x);
}
template <int kByte>
F32 UnsignedByte(Bytes x) {
  return _mm256_cvtepi32_ps(And(ShiftRight<8 * kByte>(x), _mm256_set1_epi32(255)));
}
template <int kByte>
F32 SignedByte(Bytes x) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(ShiftLeft<24 - 8 * kByte>(x), 24));
}
template <int kHalf>
F32 HalfFloat(Bytes x) {
  const __m256i low = And(ShiftRight<16 * kHalf>(x), _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

inline Bytes Broadcast4(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, sizeof four);
  return _mm256_set1_epi32(four);
}
inline __m256i WidenPairs(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }

#ifdef __AVXVNNI__
inline Bytes DotBytes(Bytes acc, Bytes w, Bytes a) { return _mm256_dpbusd_avx_epi32(acc, w, a); }
inline Bytes AddInts(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
inline Bytes SplatInt(int32_t x) { return _mm256_set1_epi32(x); }
inline F32 FloatsOf(Bytes x) { return _mm256_cvtepi32_ps(x); }
#else
// maddubs adds two products in 16 bits with saturation, which never sets in: activations are at most 127 in
// size (prepare.inl.h), so with |w| <= 128, also for hostile weights, a pair is at most 2 * 128 * 127 =
// 32512.
struct DotSigned {
  using Acc = __m256i;
  static Acc Nothing() { return _mm256_setzero_si256(); }
  static Acc Join(Acc a, Acc b) { return _mm256_add_epi32(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(acc, WidenPairs(pairs));
  }
  static F32 Finish(Acc acc, const ActivationBlock&) { return _mm256_cvtepi32_ps(acc); }
};
// All eight steps fit 16 bits: 8 * 2 * 15 * 127 = 30480.
struct DotNibble {
  using Acc = __m256i;
  static Acc Nothing() { return _mm256_setzero_si256(); }
  static Acc Join(Acc a, Acc b) { return _mm256_add_epi16(a, b); }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, a)); }
  static F32 Finish(Acc acc, const ActivationBlock& a) {
    return _mm256_cvtepi32_ps(_mm256_add_epi32(WidenPairs(acc), _mm256_set1_epi32(a.minus_8_sum)));
  }
};

// A pair is at most 2 * 128 * 127 = 32512.
struct DotCode {
  using Acc = __m256i;
  static Acc Nothing() { return _mm256_setzero_si256(); }
  static Acc Join(Acc a, Acc b) { return _mm256_add_epi32(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    return _mm256_add_epi32(acc, WidenPairs(_mm256_maddubs_epi16(w, a)));
  }
  static F32 Finish(Acc acc, const ActivationBlock&) { return _mm256_cvtepi32_ps(acc); }
};
#endif

inline uint32_t MaxMagnitudeBits(const float* x) {
  __m256i max = _mm256_setzero_si256();
  for (size_t i = 0; i < kBlockValues; i += kLanes) {
    const __m256i bits = _mm256_castps_si256(Load(x + i));
    max = _mm256_max_epu32(max, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
  }
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
inline int32_t QuantizeBlock(const float* x, float scale, int8_t* values) {
  __m256i q[4];
  for (size_t i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(Mul(Load(x + i * kLanes), Set(scale)));
  const __m256i sums = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs works within halves
  StoreBytes(values, _mm256_permutevar8x32_epi32(bytes, order));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

inline void Prefetch(uintptr_t address) { _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T1); }
inline __m256i Forget(__m256i x) {
  __asm__ volatile("" : "+x"(x));
  return x;
}
inline int32_t FirstLane(__m256i x) { return _mm_cvtsi128_si32(_mm256_castsi256_si128(x)); }

}  // namespace
}  // namespace pygrok

#ifdef __AVXVNNI__
#include "kernels/dot_vnni.h"
#endif
#include "kernels/codewords_avx2.h"  // builds on the above
