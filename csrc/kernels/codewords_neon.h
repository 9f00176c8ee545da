// The vocabulary for codebook and ternary types (see codewords_scalar.h) in NEON.
#pragma once

namespace pygrok {
namespace {

inline Bytes SplatLane(uint32_t value) {
  const uint8x16_t x = AsBytes(vdupq_n_u32(value));
  return {x, x};
}
template <int kByte>
Bytes CopyByte(Bytes x) {
  constexpr uint32_t kLane = 0x01010101u * kByte;
  const uint32x4_t lanes = {kLane, kLane + 0x04040404, kLane + 0x08080808, kLane + 0x0c0c0c0c};
  return {vqtbl1q_u8(x.lo, AsBytes(lanes)), vqtbl1q_u8(x.hi, AsBytes(lanes))};
}
inline Bytes AddBytes(Bytes a, Bytes b) { return {vaddq_u8(a.lo, b.lo), vaddq_u8(a.hi, b.hi)}; }
template <int kFirst>
Bytes NegateWhere(Bytes x, Bytes bits) {
  const Bytes set = BitMasks<kFirst>(bits);
  return SubBytes(Xor(x, set), set);
}
inline uint8x16_t Trits(uint8x16_t x) {
  const uint8x16_t second = vcgeq_u8(x, vdupq_n_u8(86)), third = vcgeq_u8(x, vdupq_n_u8(171));
  return vsubq_u8(vsubq_u8(vdupq_n_u8(255), second), third);
}
inline Bytes Trits(Bytes x) { return {Trits(x.lo), Trits(x.hi)}; }

// There is no gather: rows are loaded one by one into their lanes.
template <int kLane, size_t kBytes>
const std::byte* TableRow(const void* table, uint32x4_t index) {
  return static_cast<const std::byte*>(table) + vgetq_lane_u32(index, kLane) * kBytes;
}
inline uint8x16_t TableRows4(const void* table, uint32x4_t index) {
  return JoinWords(TableRow<0, 4>(table, index), TableRow<1, 4>(table, index), TableRow<2, 4>(table, index),
                   TableRow<3, 4>(table, index));
}
inline Bytes TableRows4(const void* table, Bytes index) {
  return {TableRows4(table, AsWords(index.lo)), TableRows4(table, AsWords(index.hi))};
}
inline uint32x4_t JoinRows8(const std::byte* a, const std::byte* b) {
  uint64_t rows[2];
  __builtin_memcpy(rows, a, sizeof rows[0]);
  __builtin_memcpy(rows + 1, b, sizeof rows[1]);
  return vreinterpretq_u32_u64(vcombine_u64(vcreate_u64(rows[0]), vcreate_u64(rows[1])));
}
inline void TableRows8(const void* table, uint32x4_t index, uint8x16_t* first, uint8x16_t* last) {
  const uint32x4_t a = JoinRows8(TableRow<0, 8>(table, index), TableRow<1, 8>(table, index));
  const uint32x4_t b = JoinRows8(TableRow<2, 8>(table, index), TableRow<3, 8>(table, index));
  *first = AsBytes(vuzp1q_u32(a, b));
  *last = AsBytes(vuzp2q_u32(a, b));
}
inline void TableRows8(const void* table, Bytes index, Bytes* first, Bytes* last) {
  TableRows8(table, AsWords(index.lo), &first->lo, &last->lo);
  TableRows8(table, AsWords(index.hi), &first->hi, &last->hi);
}

}  // namespace
}  // namespace pygrok
