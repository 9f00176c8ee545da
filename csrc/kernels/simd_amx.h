// AMX: matrix products of bfloat16 on tile registers, beside the vocabulary of simd_avx512.h.
//
// A tile holds up to 16 rows of 64 bytes. tdpbf16ps multiplies activations (a row per token, 32 values along
// k) with weights (a row per two values of k: those two of each of 16 weight rows) and adds to 16 x 16 sums
// in float32, a row per token. The instructions are written out, since those of the compiler's header do not
// say that they read memory.
#pragma once

#include "kernels/simd_avx512.h"

namespace pygrok {
namespace {

constexpr size_t kTileSide = 16;  // rows of a tile, and its columns of 32 bits
constexpr size_t kTileBytes = kTileSide * 64;
constexpr int kTokenTile = 4, kWeightTile = 6;  // and the next of each; sums are tiles 0 to 3

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The calling thread's tiles, all of them whole.
inline void ConfigureTiles() {
  TileConfig config;
  for (size_t i = 0; i < 8; ++i) {
    config.rows[i] = kTileSide;
    config.row_bytes[i] = 64;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
// Leaves no state that a system would have to save with the thread.
inline void ReleaseTiles() { __asm__ volatile("tilerelease" ::: "memory"); }

template <int kTile>
inline void ZeroTile() {
  __asm__ volatile("tilezero %%tmm%c[tile]" ::[tile] "i"(kTile));
}
// kTileBytes in a run.
template <int kTile>
inline void LoadTile(const void* p) {
  __asm__ volatile(
      "tileloadd (%[p],%[stride],1), %%tmm%c[tile]" ::[tile] "i"(kTile), [p] "r"(p), [stride] "r"(size_t{64})
      : "memory");
}
template <int kTile>
inline void StoreTile(void* p) {
  __asm__ volatile(
      "tilestored %%tmm%c[tile], (%[p],%[stride],1)" ::[tile] "i"(kTile), [p] "r"(p), [stride] "r"(size_t{64})
      : "memory");
}
// Sum tile kSum += token tile t * weight tile w.
template <int kSum, int t, int w>
inline void MultiplyTiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c[w], %%tmm%c[t], %%tmm%c[sum]" ::[sum] "i"(kSum),
                   [t] "i"(kTokenTile + t), [w] "i"(kWeightTile + w));
}

// Byte kByte of every lane as a float.
template <int kByte>
inline F32 FloatOfByte(Bytes x) {
  if constexpr (kByte == 0) return _mm512_cvtepi32_ps(And(x, _mm512_set1_epi32(255)));
  if constexpr (kByte == 3) return _mm512_cvtepi32_ps(ShiftRight<24>(x));
  const __m512i order = _mm512_add_epi32(
      _mm512_broadcast_i32x4(_mm_setr_epi32(-256, 4 - 256, 8 - 256, 12 - 256)), _mm512_set1_epi32(kByte));
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(x, order));  // bytes of the order above 127 give zeros
}

// The lanes of x and y side by side, cut off to bfloat16.
inline Bytes UpperHalves(F32 x, F32 y) {
  const __m512i low = ShiftRight<16>(_mm512_castps_si512(x)), upper = _mm512_set1_epi32(-65536);
  return _mm512_ternarylogic_epi32(_mm512_castps_si512(y), upper, low, 0xea);  // y & upper | low
}

// For limits.h: four sums that do not wait for each other.
constexpr size_t kTileMacs = 4 * kTileSide * kTileSide * kBlockValues;

int32_t TileRounds(size_t rounds) {
  alignas(64) uint16_t ones[kTileBytes / sizeof(uint16_t)];
  alignas(64) float sums[kTileSide][kTileSide];
  for (uint16_t& one : ones) one = 0x3f80;
  ConfigureTiles();
  LoadTile<kTokenTile>(ones);
  LoadTile<kTokenTile + 1>(ones);
  LoadTile<kWeightTile>(ones);
  LoadTile<kWeightTile + 1>(ones);
  ZeroTile<0>();
  ZeroTile<1>();
  ZeroTile<2>();
  ZeroTile<3>();
  for (size_t i = 0; i < rounds; ++i) {
    MultiplyTiles<0, 0, 0>();
    MultiplyTiles<1, 0, 1>();
    MultiplyTiles<2, 1, 0>();
    MultiplyTiles<3, 1, 1>();
  }
  StoreTile<0>(sums);
  ReleaseTiles();
  return static_cast<int32_t>(sums[0][0]);
}

}  // namespace
}  // namespace pygrok
