// The part of the vocabulary (simd_scalar.h, which includes this) that unpacks codebook and ternary types, in
// portable C++: the reference for the other codewords_*.h.
#pragma once

namespace pygrok {
namespace {

// A 32-bit number in every lane.
inline Bytes SplatLane(uint32_t value) {
  Bytes r;
  for (size_t i = 0; i < kLanes; ++i) __builtin_memcpy(r.byte + i * 4, &value, sizeof value);
  return r;
}
inline I32 SplatSum(int32_t value) {
  I32 r;
  for (int32_t& lane : r.lane) lane = value;
  return r;
}
// Byte kByte of each lane, four times.
template <int kByte>
Bytes CopyByte(Bytes x) {
  for (size_t i = 0; i < kLanes; ++i) __builtin_memset(x.byte + i * 4, x.byte[i * 4 + kByte], 4);
  return x;
}
inline Bytes AddBytes(Bytes a, Bytes b) {
  for (size_t i = 0; i < sizeof a.byte; ++i) a.byte[i] = static_cast<uint8_t>(a.byte[i] + b.byte[i]);
  return a;
}
// x, with byte i of each lane negated if bit kFirst + i of that lane of `bits` is set; kFirst is a multiple
// of 4.
template <int kFirst>
Bytes NegateWhere(Bytes x, Bytes bits) {
  const Bytes word = ShiftRight<kFirst>(bits);
  for (size_t i = 0; i < sizeof x.byte; ++i) {
    if ((word.byte[i / 4 * 4] >> (i % 4) & 1) != 0) x.byte[i] = static_cast<uint8_t>(-x.byte[i]);
  }
  return x;
}
// -1, 0 or 1: in which third of 0..255 each byte lies.
inline Bytes Trits(Bytes x) {
  for (uint8_t& b : x.byte) b = static_cast<uint8_t>((b * 3 >> 8) - 1);
  return x;
}
// Each lane of `index` counts rows of a table: their four bytes, or the first and the last four of eight.
inline Bytes TableRows4(const void* table, Bytes index) {
  for (size_t i = 0; i < kLanes; ++i) {
    uint32_t row;
    __builtin_memcpy(&row, index.byte + i * 4, sizeof row);
    __builtin_memcpy(index.byte + i * 4, static_cast<const std::byte*>(table) + row * size_t{4}, 4);
  }
  return index;
}
inline void TableRows8(const void* table, Bytes index, Bytes* first, Bytes* last) {
  index = ShiftLeft<1>(index);
  *first = TableRows4(table, index);
  *last = TableRows4(static_cast<const std::byte*>(table) + 4, index);
}

}  // namespace
}  // namespace pygrok
