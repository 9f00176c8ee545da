// AMX: matrix products of bytes on tile registers, beside the vocabulary of simd_avx512.h.
//
// A tile holds up to 16 rows of 64 bytes. tdpb multiplies activations (a row per token, bytes along k) with
// weights (a row per four values of k, four bytes of each of 16 weight rows: a panel as it is) and adds to 16
// x 16 sums of 32 bits, a row per token. The instructions are written out, since those of the compiler's
// header do not say that they read memory.
#pragma once

#include "kernels/simd_avx512.h"

#define PYGROK_AMX

namespace pygrok {
namespace {

constexpr size_t kTileSide = 16;                         // rows of a tile, and its columns of 32 bits
constexpr size_t kTileBytes = kTileSide * 64;            // of a whole tile
enum : size_t { kActivationTile = 4, kWeightTile = 6 };  // and the next of each; sums are tiles 0 to 3

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

inline void SetTileShape(TileConfig& config, size_t tile, size_t rows, size_t row_bytes) {
  config.rows[tile] = static_cast<uint8_t>(rows);
  config.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
}

// Shapes the calling thread's tiles for products along `depth` bytes of k.
inline void ConfigureTiles(size_t depth) {
  TileConfig config;
  for (size_t i = 0; i < kActivationTile; ++i) SetTileShape(config, i, kTileSide, 64);
  for (size_t i = 0; i < 2; ++i) {
    SetTileShape(config, kActivationTile + i, kTileSide, depth);
    SetTileShape(config, kWeightTile + i, depth / 4, 64);
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
// Leaves no state that a system would have to save with the thread.
inline void ReleaseTiles() { __asm__ volatile("tilerelease" ::: "memory"); }

// Sum tile i = tokens x weights; kUnsigned: the weights are.
template <int i, bool kUnsigned>
inline void MultiplyTile(const int8_t* tokens, size_t token_stride, const uint8_t* weights) {
  constexpr int kA = kActivationTile + i, kB = kWeightTile + i;
  __asm__ volatile(
      "tilezero %%tmm%c[sum]\n\t"
      "tileloadd (%[tokens],%[stride],1), %%tmm%c[a]\n\t"
      "tileloadd (%[weights],%[line],1), %%tmm%c[b]"
      :
      : [sum] "i"(i), [a] "i"(kA), [b] "i"(kB), [tokens] "r"(tokens), [stride] "r"(token_stride),
        [weights] "r"(weights), [line] "r"(size_t{64})
      : "memory");
  if constexpr (kUnsigned) {
    __asm__ volatile("tdpbsud %%tmm%c[b], %%tmm%c[a], %%tmm%c[sum]" ::[sum] "i"(i), [a] "i"(kA), [b] "i"(kB));
  } else {
    __asm__ volatile("tdpbssd %%tmm%c[b], %%tmm%c[a], %%tmm%c[sum]" ::[sum] "i"(i), [a] "i"(kA), [b] "i"(kB));
  }
}

// Sum tile i to memory.
template <int i>
inline void StoreTile(int32_t (*out)[kTileSide]) {
  __asm__ volatile(
      "tilestored %%tmm%c[sum], (%[out],%[line],1)" ::[sum] "i"(i), [out] "r"(out), [line] "r"(size_t{64})
      : "memory");
}

inline F32 LoadSums(const int32_t* sums) { return _mm512_cvtepi32_ps(_mm512_load_si512(sums)); }

// For limits.h: whole tiles, four sums that do not wait for each other.
constexpr size_t kTileMacs = 4 * kTileSide * kTileSide * 64;

int32_t TileRounds(size_t rounds) {
  alignas(64) int8_t ones[kTileBytes];
  alignas(64) int32_t sums[kTileSide][kTileSide];
  for (int8_t& one : ones) one = 1;
  ConfigureTiles(64);
  __asm__ volatile(
      "tileloadd (%[ones],%[line],1), %%tmm4\n\ttileloadd (%[ones],%[line],1), %%tmm5\n\t"
      "tileloadd (%[ones],%[line],1), %%tmm6\n\ttileloadd (%[ones],%[line],1), %%tmm7\n\t"
      "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::[ones] "r"(ones),
      [line] "r"(size_t{64})
      : "memory");
  for (size_t i = 0; i < rounds; ++i) {
    __asm__ volatile(
        "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\ttdpbssd %%tmm7, %%tmm4, %%tmm1\n\t"
        "tdpbssd %%tmm6, %%tmm5, %%tmm2\n\ttdpbssd %%tmm7, %%tmm5, %%tmm3" ::);
  }
  StoreTile<0>(sums);
  ReleaseTiles();
  return sums[0][0];
}

}  // namespace
}  // namespace pygrok
