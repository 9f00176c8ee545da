// The values that codes stand for, before they are scaled: rounding to them, 16 rows at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codebooks.h"
#include "quantize/lanes.h"

namespace pygrok {
namespace {

// sum += step where x > limit
PYGROK_LANES void AddAbove(const F32x& x, float limit, float step, F32x& sum) {
  I32x above;
  Less(F32x{} + limit, x, above);
  sum += (F32x)(above & (I32x)(F32x{} + step));
}

PYGROK_LANES void TakeSign(const F32x& x, F32x& magnitude) {
  magnitude = (F32x)((I32x)magnitude | (I32x)((U32x)x & 0x80000000u));
}

// The integers low..high, stored as code - low.
template <int low, int high>
struct Linear {
  static constexpr int kLow = low;
  static constexpr int kHigh = high;
  PYGROK_LANES static void Nearest(const F32x& x, F32x& value) {
    value = x;
    Clamp(value, static_cast<float>(kLow), static_cast<float>(kHigh));
    pygrok::Round(value);
  }
  PYGROK_LANES static void NearestCode(const F32x& x, F32x& value, uint8_t* code) {
    Nearest(x, value);
    StoreBytes(value - static_cast<float>(kLow), code);
  }
};

// The 16 unevenly spaced integers of IQ4_NL and IQ4_XS.
struct Iq4 {
  static constexpr int kLow = kIq4Values[0];
  static constexpr int kHigh = kIq4Values[15];
  // What the largest magnitude may become: see SearchScale.
  static constexpr float kTrials[] = {-138.0f, -132.0f, -126.0f, -120.0f, -114.0f, -108.0f,
                                      122.0f,  116.0f,  110.0f,  104.0f,  98.0f};
  static constexpr float Middle(size_t i) {
    return 0.5f * static_cast<float>(int{kIq4Values[i]} + int{kIq4Values[i + 1]});
  }
  PYGROK_LANES static void Nearest(const F32x& x, F32x& value) {
    Fill(value, kLow);
    for (size_t i = 0; i + 1 < 16; ++i) {
      AddAbove(x, Middle(i), static_cast<float>(kIq4Values[i + 1] - kIq4Values[i]), value);
    }
  }
  PYGROK_LANES static void NearestCode(const F32x& x, F32x& value, uint8_t* code) {
    Nearest(x, value);
    F32x index = {};
    for (size_t i = 0; i + 1 < 16; ++i) AddAbove(x, Middle(i), 1.0f, index);
    StoreBytes(index, code);
  }
};

// The codes E2M1 of MXFP4, doubled: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives.
struct Fp4 {
  static constexpr float Middle(size_t i) {
    return 0.5f * static_cast<float>(int{kMxfp4Values[i]} + int{kMxfp4Values[i + 1]});
  }
  PYGROK_LANES static void NearestMagnitude(const F32x& x, F32x& value, F32x& index) {
    F32x magnitude;
    Magnitude(x, magnitude);
    value = F32x{};
    index = F32x{};
    for (size_t i = 0; i + 1 < 8; ++i) {
      AddAbove(magnitude, Middle(i), static_cast<float>(kMxfp4Values[i + 1] - kMxfp4Values[i]), value);
      AddAbove(magnitude, Middle(i), 1.0f, index);
    }
  }
  PYGROK_LANES static void Nearest(const F32x& x, F32x& value) {
    F32x index;
    NearestMagnitude(x, value, index);
    TakeSign(x, value);
  }
  PYGROK_LANES static void NearestCode(const F32x& x, F32x& value, uint8_t* code) {
    F32x index;
    NearestMagnitude(x, value, index);
    index += (F32x)((I32x)x >> 31 & (I32x)(F32x{} + 8.0f));
    StoreBytes(index, code);
    TakeSign(x, value);
  }
};

}  // namespace
}  // namespace pygrok
