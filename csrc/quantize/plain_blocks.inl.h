// The block types of 32 values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/codes.inl.h"
#include "quantize/fit.inl.h"
#include "quantize/fit_affine.inl.h"

namespace pygrok {
namespace {

constexpr size_t kPlainBlock = 32;

// A block of one row in its file's bytes: first the halves, then the bytes of codes.
template <size_t kHalves, size_t kBytes>
PYGROK_LANES void StoreBlock(const U32x (&halves)[kHalves], const uint8_t* codes, size_t rows, std::byte* out,
                             size_t stride) {
  U16x narrow[kHalves];
  for (size_t i = 0; i < kHalves; ++i) narrow[i] = __builtin_convertvector(halves[i], U16x);
  for (size_t r = 0; r < rows; ++r) {
    uint8_t block[2 * kHalves + kBytes];
    for (size_t i = 0; i < kHalves; ++i) {
      const uint16_t half = narrow[i][r];
      std::memcpy(block + 2 * i, &half, 2);
    }
    for (size_t j = 0; j < kBytes; ++j) block[2 * kHalves + j] = codes[j * kLanes + r];
    std::memcpy(out + r * stride, block, sizeof(block));
  }
}

// A block that is all bytes: `bytes` is [kBytes][kLanes].
template <size_t kBytes>
PYGROK_LANES void StoreBytesOf(const uint8_t* bytes, size_t rows, std::byte* out, size_t stride) {
  for (size_t r = 0; r < rows; ++r) {
    uint8_t block[kBytes];
    for (size_t j = 0; j < kBytes; ++j) block[j] = bytes[j * kLanes + r];
    std::memcpy(out + r * stride, block, sizeof(block));
  }
}

// Byte j of 16 holds the low nibbles of codes j (low) and j + 16 (high).
PYGROK_LANES void PackNibbles(const uint8_t* codes, uint8_t* bytes) {
  for (size_t j = 0; j < kPlainBlock / 2 * kLanes; ++j) {
    const int high = codes[j + kPlainBlock / 2 * kLanes];
    bytes[j] = static_cast<uint8_t>((codes[j] & 15) | high << 4);
  }
}

// Bit i of 4 bytes is the fifth bit of code i.
PYGROK_LANES void PackFifthBits(const uint8_t* codes, uint8_t* bytes) {
  for (size_t j = 0; j < 4; ++j) {
    for (size_t r = 0; r < kLanes; ++r) {
      int bits = 0;
      for (size_t i = 0; i < 8; ++i) bits |= (codes[(8 * j + i) * kLanes + r] >> 4) << i;
      bytes[j * kLanes + r] = static_cast<uint8_t>(bits);
    }
  }
}

template <TensorType type, class Values>
struct PlainBlock {
  static constexpr TensorType kType = type;
  static constexpr bool kNeedsImportance = false;
  static constexpr size_t kBlock = kPlainBlock;
  static constexpr size_t kGroup = 1;
  static constexpr size_t kSubBlock = kPlainBlock;
  using Codes = Values;
  using Code = uint8_t;
};

// value = d * code, d a half of either sign.
template <TensorType type, class Values>
struct ScaledBlock : PlainBlock<type, Values> {
  static constexpr float kMaxAbs = kHalfMax * static_cast<float>(-Values::kLow);
  using Scales = HalfScale;

  // The extreme value decides the classic scale; the fitted one replaces it where it is better as stored.
  template <size_t kTrials>
  PYGROK_LANES static void ChooseFrom(const float* x, const float* w, const float (&trials)[kTrials],
                                      float classic, int refits, Scales& s) {
    F32x extreme;
    FindExtreme<kPlainBlock>(x, extreme);
    RoundScale(extreme / classic, s);
    ScaleFit fit;
    SearchScale<Values, kPlainBlock>(x, w, trials, refits, fit);
    Scales fitted;
    RoundScale(fit.scale, fitted);
    F32x classic_error;
    F32x fitted_error;
    ScaleError<Values, kPlainBlock>(x, w, s.value, s.inverse, classic_error);
    ScaleError<Values, kPlainBlock>(x, w, fitted.value, fitted.inverse, fitted_error);
    I32x better;
    Less(fitted_error, classic_error, better);
    SelectScale(better, fitted, s);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t, const F32x* x, const F32x*, uint8_t* code,
                                 F32x* y) {
    F32x value;
    Values::NearestCode(*x * s.inverse, value, code);
    *y = s.value * value;
  }
};

// Q8_0: f16 d, 32 int8 codes.
struct BlockQ8_0 : ScaledBlock<TensorType::kQ8_0, Linear<-127, 127>> {
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    constexpr float kTrials[] = {-127.0f};
    ChooseFrom(x, w, kTrials, -127.0f, 0, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[kBlock * kLanes];
    for (size_t j = 0; j < sizeof(bytes); ++j) bytes[j] = static_cast<uint8_t>(codes[j] - 127);
    StoreBlock<1, kBlock>({s.bits}, bytes, rows, out, stride);
  }
};

// Q4_0: f16 d, 16 bytes of codes + 8.
struct BlockQ4_0 : ScaledBlock<TensorType::kQ4_0, Linear<-8, 7>> {
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    // The extreme value becomes code -8 (some of these clip it a little, some leave room) or, with the sign
    // of the scale turned, +7.
    constexpr float kTrials[] = {-9.4f, -9.0f, -8.7f, -8.4f, -8.15f, -7.9f, -7.65f, -7.4f,
                                 -7.1f, -6.8f, -6.4f, 7.9f,  7.5f,   7.2f,  6.9f,   6.5f};
    ChooseFrom(x, w, kTrials, -8.0f, 2, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[kBlock / 2 * kLanes];
    PackNibbles(codes, bytes);
    StoreBlock<1, kBlock / 2>({s.bits}, bytes, rows, out, stride);
  }
};

// Q5_0: f16 d, 4 bytes of fifth bits, 16 bytes of low nibbles of codes + 16.
struct BlockQ5_0 : ScaledBlock<TensorType::kQ5_0, Linear<-16, 15>> {
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    constexpr float kTrials[] = {-17.4f, -16.9f, -16.5f, -16.1f, -15.7f, -15.3f, -14.9f,
                                 -14.5f, -14.0f, 15.8f,  15.3f,  14.9f,  14.5f,  14.0f};
    ChooseFrom(x, w, kTrials, -16.0f, 2, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[(4 + kBlock / 2) * kLanes];
    PackFifthBits(codes, bytes);
    PackNibbles(codes, bytes + 4 * kLanes);
    StoreBlock<1, 4 + kBlock / 2>({s.bits}, bytes, rows, out, stride);
  }
};

// IQ4_NL: f16 d, 16 bytes of codes.
struct BlockIQ4_NL : ScaledBlock<TensorType::kIQ4_NL, Iq4> {
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    constexpr float kTrials[] = {-138.0f, -132.0f, -126.0f, -120.0f, -114.0f, -108.0f,
                                 122.0f,  116.0f,  110.0f,  104.0f,  98.0f};
    ChooseFrom(x, w, kTrials, -127.0f, 2, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[kBlock / 2 * kLanes];
    PackNibbles(codes, bytes);
    StoreBlock<1, kBlock / 2>({s.bits}, bytes, rows, out, stride);
  }
};

struct HalfAffine {
  HalfScale d;
  HalfScale m;
};

// value = d * code + m, both halves.
template <TensorType type, int kMax>
struct OffsetBlock : PlainBlock<type, Linear<0, kMax>> {
  static constexpr float kMaxAbs = kHalfMax;
  using Scales = HalfAffine;

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    constexpr float kEnds[] = {-0.75f, -0.35f, 0.05f, 0.45f, 0.85f};
    AffineMoments moments;
    AffineFit fit;
    SearchAffine<kPlainBlock, kMax, false>(x, w, kEnds, 2, moments, fit);
    RoundScale(fit.scale, s.d);
    RoundScale(fit.offset, s.m);
    Scales classic;
    RoundScale((moments.high - moments.low) / static_cast<float>(kMax), classic.d);
    RoundScale(moments.low, classic.m);
    F32x error;
    F32x classic_error;
    AffineError<kPlainBlock, kMax>(x, w, s.d.value, s.d.inverse, s.m.value, error);
    AffineError<kPlainBlock, kMax>(x, w, classic.d.value, classic.d.inverse, classic.m.value, classic_error);
    I32x worse;
    Less(classic_error, error, worse);
    SelectScale(worse, classic.d, s.d);
    SelectScale(worse, classic.m, s.m);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t, const F32x* x, const F32x*, uint8_t* code,
                                 F32x* y) {
    F32x q;
    AffineCode<kMax>((*x - s.m.value) * s.d.inverse, q);
    StoreBytes(q, code);
    *y = s.d.value * q + s.m.value;
  }
};

// Q4_1: f16 d, f16 m, 16 bytes of codes.
struct BlockQ4_1 : OffsetBlock<TensorType::kQ4_1, 15> {
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[kBlock / 2 * kLanes];
    PackNibbles(codes, bytes);
    StoreBlock<2, kBlock / 2>({s.d.bits, s.m.bits}, bytes, rows, out, stride);
  }
};

// Q5_1: f16 d, f16 m, 4 bytes of fifth bits, 16 bytes of low nibbles.
struct BlockQ5_1 : OffsetBlock<TensorType::kQ5_1, 31> {
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[(4 + kBlock / 2) * kLanes];
    PackFifthBits(codes, bytes);
    PackNibbles(codes, bytes + 4 * kLanes);
    StoreBlock<2, 4 + kBlock / 2>({s.d.bits, s.m.bits}, bytes, rows, out, stride);
  }
};

// MXFP4: a power of two as its exponent (byte e stands for 2^(e - 128)), 16 bytes of codes.
struct BlockMXFP4 : PlainBlock<TensorType::kMXFP4, Fp4> {
  static constexpr float kMaxAbs = 0x1.fffffep127f;

  struct Scales {
    U32x exponent;
    F32x value;
    F32x inverse;
  };

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    F32x extreme;
    F32x per_extreme;
    FindExtreme<kBlock>(x, extreme);
    Invert(extreme, per_extreme);
    Magnitude(extreme, extreme);
    // The exponent of the largest magnitude, which maps to 1..2; codes reach to 12, so it is 2 or 3 less.
    const I32x top = (I32x)((U32x)extreme >> 23) + 1;
    F32x best = {};
    SetExponent(top - 2, s);
    for (int less = 2; less <= 4; ++less) {
      Scales trial;
      SetExponent(top - less, trial);
      F32x error = {};
      for (size_t i = 0; i < kBlock; ++i) {
        F32x v;
        F32x weight;
        F32x q;
        Load(x + i * kLanes, v);
        Load(w + i * kLanes, weight);
        Fp4::Nearest(v * trial.inverse, q);
        // In units of the largest magnitude, so that nothing over- or underflows when squared.
        const F32x off = (v - trial.value * q) * per_extreme;
        error += weight * off * off;
      }
      I32x better = I32x{} - 1;
      if (less != 2) Less(error, best, better);
      Select(better, error, best);
      s.exponent = ((U32x)better & trial.exponent) | (~(U32x)better & s.exponent);
      Select(better, trial.value, s.value);
      Select(better, trial.inverse, s.inverse);
    }
  }

  // 2^(e - 128) for 2 <= e <= 253, so that the scale and its inverse are normal numbers.
  PYGROK_LANES static void SetExponent(const I32x& wanted, Scales& s) {
    const I32x low = (wanted - 2) >> 31;
    const I32x high = (253 - wanted) >> 31;
    const I32x e = (low & 2) | (high & 253) | (~(low | high) & wanted);
    s.exponent = (U32x)e;
    s.value = (F32x)((U32x)(e - 1) << 23);
    s.inverse = (F32x)((U32x)(255 - e) << 23);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t, const F32x* x, const F32x*, uint8_t* code,
                                 F32x* y) {
    F32x value;
    Fp4::NearestCode(*x * s.inverse, value, code);
    *y = s.value * value;
  }

  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    uint8_t bytes[(1 + kBlock / 2) * kLanes];
    const U8x exponent = __builtin_convertvector(s.exponent, U8x);
    std::memcpy(bytes, &exponent, kLanes);
    PackNibbles(codes, bytes + kLanes);
    StoreBytesOf<1 + kBlock / 2>(bytes, rows, out, stride);
  }
};

}  // namespace
}  // namespace pygrok
