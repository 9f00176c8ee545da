// The vocabulary for codebook and ternary types (see codewords_scalar.h) in AVX-512.
#pragma once

namespace pygrok {
namespace {

inline Bytes SplatLane(uint32_t value) { return _mm512_set1_epi32(static_cast<int32_t>(value)); }
inline __m512i SplatSum(int32_t value) { return _mm512_set1_epi32(value); }
template <int kByte>
Bytes CopyByte(Bytes x) {
  const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  return _mm512_shuffle_epi8(x, _mm512_add_epi8(lanes, _mm512_set1_epi8(kByte)));
}
inline Bytes AddBytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
template <int kFirst>
Bytes NegateWhere(Bytes x, Bytes bits) {
  const __m512i bit = SplatLane(0x08040201u << (kFirst % 8));
  const __mmask64 set = _mm512_test_epi8_mask(CopyByte<kFirst / 8>(bits), bit);
  return _mm512_mask_sub_epi8(x, set, _mm512_setzero_si512(), x);
}
inline Bytes Trits(Bytes x) {
  const __m512i one = SplatByte(1);
  const __m512i trits = _mm512_maskz_set1_epi8(_mm512_cmpge_epu8_mask(x, SplatByte(171)), 1);
  return _mm512_mask_sub_epi8(trits, _mm512_cmplt_epu8_mask(x, SplatByte(86)), trits, one);
}
inline Bytes TableRows4(const void* table, Bytes index) { return _mm512_i32gather_epi32(index, table, 4); }
inline void TableRows8(const void* table, Bytes index, Bytes* first, Bytes* last) {
  const __m512i a = _mm512_i32gather_epi64(_mm512_castsi512_si256(index), table, 8);
  const __m512i b = _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(index, 1), table, 8);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *first = _mm512_permutex2var_epi32(a, even, b);
  *last = _mm512_permutex2var_epi32(a, Or(even, SplatLane(1)), b);
}

}  // namespace
}  // namespace pygrok
