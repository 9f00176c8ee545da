// The vocabulary for codebook and ternary types (see codewords_scalar.h) in AVX2.
#pragma once

namespace pygrok {
namespace {

inline Bytes SplatLane(uint32_t value) { return _mm256_set1_epi32(static_cast<int32_t>(value)); }
inline __m256i SplatSum(int32_t value) { return _mm256_set1_epi32(value); }
template <int kByte>
Bytes CopyByte(Bytes x) {
  const __m256i lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c,  //
                                          0, 0x04040404, 0x08080808, 0x0c0c0c0c);
  return _mm256_shuffle_epi8(x, _mm256_add_epi8(lanes, _mm256_set1_epi8(kByte)));
}
inline Bytes AddBytes(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
template <int kFirst>
Bytes NegateWhere(Bytes x, Bytes bits) {
  const __m256i bit = _mm256_set1_epi32(static_cast<int32_t>(0x08040201u << (kFirst % 8)));
  const __m256i set = _mm256_cmpeq_epi8(And(CopyByte<kFirst / 8>(bits), bit), bit);
  return SubBytes(Xor(x, set), set);
}
inline Bytes Trits(Bytes x) {
  const __m256i second = _mm256_cmpeq_epi8(_mm256_max_epu8(x, SplatByte(86)), x);
  const __m256i third = _mm256_cmpeq_epi8(_mm256_max_epu8(x, SplatByte(171)), x);
  return SubBytes(SubBytes(SplatByte(-1), second), third);
}
inline Bytes TableRows4(const void* table, Bytes index) {
  return _mm256_i32gather_epi32(static_cast<const int*>(table), index, 4);
}
inline void TableRows8(const void* table, Bytes index, Bytes* first, Bytes* last) {
  // Lanes 0, 1, 4, 5 and 2, 3, 6, 7, as the shuffle within halves wants them.
  const __m256i order = _mm256_permute4x64_epi64(index, 0xd8);
  const long long* rows = static_cast<const long long*>(table);
  const __m256 a = _mm256_castsi256_ps(_mm256_i32gather_epi64(rows, _mm256_castsi256_si128(order), 8));
  const __m256 b = _mm256_castsi256_ps(_mm256_i32gather_epi64(rows, _mm256_extracti128_si256(order, 1), 8));
  *first = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
  *last = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
}

}  // namespace
}  // namespace pygrok
