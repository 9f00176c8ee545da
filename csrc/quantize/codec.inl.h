// The encoders' bodies, inlined into one function per instruction set by codec.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/codec.h"
#include "quantize/lanes.h"

namespace pygrok {
namespace {

static_assert(kGroupRows == kLanes);

constexpr size_t kBlock = 32;  // of Q8_0 and Q4_0
constexpr float kHalfMax = 65504.0f;

// A block scale as stored, and its inverse: 0 when the stored scale is 0.
struct Scale {
  U32x bits;
  F32x value;
  F32x inverse;
};

PYGROK_LANES void RoundScale(const F32x& d, Scale& scale) {
  ToHalf(d, scale.bits);
  FromHalf(scale.bits, scale.value);
  scale.inverse = scale.value == 0.0f ? F32x{} : 1.0f / scale.value;
}

PYGROK_LANES void Select(const I32x& mask, const Scale& yes, Scale& no_and_out) {
  no_and_out.bits = mask ? yes.bits : no_and_out.bits;
  no_and_out.value = mask ? yes.value : no_and_out.value;
  no_and_out.inverse = mask ? yes.inverse : no_and_out.inverse;
}

PYGROK_LANES void Extremes(const float* x, F32x& low, F32x& high) {
  Load(x, low);
  high = low;
  for (size_t i = 1; i < kBlock; ++i) {
    F32x v;
    Load(x + i * kLanes, v);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
}

// One block of every row: the scale, then kBytes of codes. `codes` is [kBytes][kLanes].
template <size_t kBytes>
PYGROK_LANES void StoreBlock(const Scale& scale, const uint8_t* codes, size_t rows, std::byte* out,
                             size_t stride) {
  const U16x bits = __builtin_convertvector(scale.bits, U16x);
  for (size_t r = 0; r < rows; ++r) {
    uint8_t block[2 + kBytes];
    const uint16_t d = bits[r];
    std::memcpy(block, &d, 2);
    for (size_t j = 0; j < kBytes; ++j) block[2 + j] = codes[j * kLanes + r];
    std::memcpy(out + r * stride, block, sizeof(block));
  }
}

PYGROK_LANES void F32Body(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < n; ++i) std::memcpy(out + r * stride + i * 4, x + i * kLanes + r, 4);
  }
}

template <void (*kRound)(const F32x&, U32x&)>
PYGROK_LANES void Float16Body(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {
  // Whole cache lines a row at a time: rows often lie a multiple of 4096 bytes apart, in one set of the
  // cache.
  constexpr size_t kRun = 32;
  for (size_t first = 0; first < n; first += kRun) {
    const size_t count = n - first < kRun ? n - first : kRun;
    uint16_t values[kRun * kLanes];
    for (size_t i = 0; i < count; ++i) {
      F32x v;
      U32x bits;
      Load(x + (first + i) * kLanes, v);
      kRound(v, bits);
      const U16x narrow = __builtin_convertvector(bits, U16x);
      std::memcpy(values + i * kLanes, &narrow, sizeof(narrow));
    }
    for (size_t r = 0; r < rows; ++r) {
      uint16_t run[kRun];
      for (size_t i = 0; i < count; ++i) run[i] = values[i * kLanes + r];
      std::memcpy(out + r * stride + first * 2, run, count * 2);
    }
  }
}

// Q8_0 block: f16 scale d, 32 int8 codes; value = d * code. Codes are nearest for the scale as stored.
PYGROK_LANES void Q8_0Body(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {
  for (size_t b = 0; b < n; b += kBlock, x += kBlock * kLanes, out += 2 + kBlock) {
    F32x low;
    F32x high;
    Extremes(x, low, high);
    Scale scale;
    RoundScale((-low > high ? -low : high) / 127.0f, scale);
    uint8_t codes[kBlock * kLanes];
    for (size_t i = 0; i < kBlock; ++i) {
      F32x v;
      Load(x + i * kLanes, v);
      v *= scale.inverse;
      Clamp(v, -127.0f, 127.0f);
      Round(v);
      const U8x code = __builtin_convertvector(__builtin_convertvector(v, I32x), U8x);
      std::memcpy(codes + i * kLanes, &code, kLanes);
    }
    StoreBlock<kBlock>(scale, codes, rows, out, stride);
  }
}

PYGROK_LANES void Code4(const F32x& scaled, F32x& code) {
  code = scaled;
  Clamp(code, -8.0f, 7.0f);
  Round(code);
}

// What the extreme value is divided into: it becomes code -8 (some of these clip it a little, some leave
// room) or, with the sign of the scale turned, +7. Measured on normal values: 11% less squared error than -8
// alone.
constexpr float kTrials[] = {-8.6f, -8.1f, -7.6f, -7.1f, 7.5f};

PYGROK_LANES void ChooseScale4(const float* x, Scale& chosen) {
  F32x low;
  F32x high;
  Extremes(x, low, high);
  const F32x extreme = -low > high ? low : high;
  RoundScale(extreme / -8.0f, chosen);  // the classic choice

  // With codes q for a trial scale, d = sum(q x) / sum(q q) is the best scale for them and leaves the squared
  // error sum(x x) - d sum(q x).
  F32x best_scale = {};
  F32x best_gain = {};
  for (const float trial : kTrials) {
    const F32x inverse = trial / extreme;
    F32x qx = {};
    F32x qq = {};
    for (size_t i = 0; i < kBlock; ++i) {
      F32x v;
      F32x q;
      Load(x + i * kLanes, v);
      Code4(v * inverse, q);
      qx += q * v;
      qq += q * q;
    }
    const F32x scale = qx / qq;
    const I32x better = scale * qx > best_gain;  // false for the NaN of an all-zero block
    best_scale = better ? scale : best_scale;
    best_gain = better ? scale * qx : best_gain;
  }
  F32x magnitude;
  Magnitude(best_scale, magnitude);
  best_scale = magnitude <= kHalfMax ? best_scale : F32x{};

  // Rounding the scale to f16 may have spoilt it; the classic choice is the floor.
  Scale fitted;
  RoundScale(best_scale, fitted);
  F32x classic_error = {};
  F32x fitted_error = {};
  for (size_t i = 0; i < kBlock; ++i) {
    F32x v;
    F32x q;
    Load(x + i * kLanes, v);
    Code4(v * chosen.inverse, q);
    const F32x classic_off = v - chosen.value * q;
    classic_error += classic_off * classic_off;
    Code4(v * fitted.inverse, q);
    const F32x fitted_off = v - fitted.value * q;
    fitted_error += fitted_off * fitted_off;
  }
  Select(fitted_error < classic_error, fitted, chosen);
}

// Q4_0 block: f16 scale d, 16 bytes; byte j holds codes j (low) and j + 16 (high); value = d * (code - 8).
PYGROK_LANES void Q4_0Body(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {
  for (size_t b = 0; b < n; b += kBlock, x += kBlock * kLanes, out += 2 + kBlock / 2) {
    Scale scale;
    ChooseScale4(x, scale);
    uint8_t codes[kBlock / 2 * kLanes];
    for (size_t j = 0; j < kBlock / 2; ++j) {
      F32x v;
      F32x low;
      F32x high;
      Load(x + j * kLanes, v);
      Code4(v * scale.inverse, low);
      Load(x + (j + kBlock / 2) * kLanes, v);
      Code4(v * scale.inverse, high);
      const F32x both = (low + 8.0f) + (high + 8.0f) * 16.0f;
      const U8x code = __builtin_convertvector(__builtin_convertvector(both, I32x), U8x);
      std::memcpy(codes + j * kLanes, &code, kLanes);
    }
    StoreBlock<kBlock / 2>(scale, codes, rows, out, stride);
  }
}

PYGROK_LANES bool AllWithinBody(const float* x, size_t n, float limit) {
  I32x outside = {};
  for (size_t i = 0; i < n; i += kLanes) {
    F32x v;
    F32x magnitude;
    Load(x + i, v);
    Magnitude(v, magnitude);
    outside |= ~(magnitude <= limit);  // NaN compares false
  }
  int32_t any = 0;
  for (size_t r = 0; r < kLanes; ++r) any |= outside[r];
  return any == 0;
}

}  // namespace
}  // namespace pygrok
