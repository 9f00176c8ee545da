// The block types of 32 values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/codes.inl.h"
#include "quantize/fit.inl.h"
#include "quantize/fit_affine.inl.h"
#include "quantize/pack.inl.h"

namespace pygrok {
namespace {

constexpr size_t kPlainBlock = 32;

// How 32 codes lie in a block.
struct ByteCodes {  // int8, stored from -127 up
  static constexpr size_t kBytes = kPlainBlock;
  PYGROK_LANES static void Pack(const uint8_t* codes, uint8_t* to) {
    for (size_t i = 0; i < kBytes; ++i) to[i] = static_cast<uint8_t>(codes[i] - 127);
  }
};
struct NibbleCodes {
  static constexpr size_t kBytes = kPlainBlock / 2;
  PYGROK_LANES static void Pack(const uint8_t* codes, uint8_t* to) { PackBits<4, kBytes>(codes, 0, to); }
};
struct FiveBitCodes {  // 32 fifth bits, then nibbles
  static constexpr size_t kBytes = 4 + NibbleCodes::kBytes;
  PYGROK_LANES static void Pack(const uint8_t* codes, uint8_t* to) {
    uint32_t fifth = 0;
    for (size_t i = 0; i < kPlainBlock; ++i) fifth |= static_cast<uint32_t>(codes[i] >> 4) << i;
    std::memcpy(to, &fifth, sizeof(fifth));
    NibbleCodes::Pack(codes, to + sizeof(fifth));
  }
};

// value = d * code, d a half of either sign.
template <TensorType type, class Values, class Layout, const auto& kTrials, size_t kRefits = 2>
struct ScaledBlock : ScalarBlock<type, kPlainBlock, kPlainBlock> {
  static constexpr float kMaxAbs = kHalfMax * static_cast<float>(-Values::kLow);
  static constexpr size_t kBlockBytes = 2 + Layout::kBytes;
  using Scales = HalfScale;

  // The extreme value decides the classic scale; the fitted one replaces it where it is better as stored.
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    F32x extreme;
    FindExtreme<kPlainBlock>(x, extreme);
    RoundScale(extreme / static_cast<float>(Values::kLow), s);
    ScaleFit fit;
    SearchScale<Values, kPlainBlock>(x, w, kTrials, kRefits, fit);
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

  PYGROK_LANES static void Round(const Scales& s, size_t, const float* x, const float*, uint8_t* code,
                                 F32x* y) {
    RoundToScale<Values>(x, s.value, s.inverse, code, *y);
  }

  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PutHalf(s.bits, lane, block);
    Layout::Pack(codes, block + 2);
  }
};

// What the largest magnitude may become. For 4 and 5 bits it is the code furthest from zero (some of these
// clip it a little, some leave room) or, with the sign of the scale turned, the last on the other side.
constexpr float kTrialsQ8[] = {-127.0f};
constexpr float kTrialsQ4[] = {-9.4f, -9.0f, -8.7f, -8.4f, -8.15f, -7.9f, -7.65f, -7.4f,
                               -7.1f, -6.8f, -6.4f, 7.9f,  7.5f,   7.2f,  6.9f,   6.5f};
constexpr float kTrialsQ5[] = {-17.4f, -16.9f, -16.5f, -16.1f, -15.7f, -15.3f, -14.9f,
                               -14.5f, -14.0f, 15.8f,  15.3f,  14.9f,  14.5f,  14.0f};

using BlockQ8_0 = ScaledBlock<TensorType::kQ8_0, Linear<-127, 127>, ByteCodes, kTrialsQ8, 0>;
using BlockQ4_0 = ScaledBlock<TensorType::kQ4_0, Linear<-8, 7>, NibbleCodes, kTrialsQ4>;
using BlockQ5_0 = ScaledBlock<TensorType::kQ5_0, Linear<-16, 15>, FiveBitCodes, kTrialsQ5>;
using BlockIQ4_NL = ScaledBlock<TensorType::kIQ4_NL, Iq4, NibbleCodes, Iq4::kTrials>;

struct HalfAffine {
  HalfScale d;
  HalfScale m;
};

// value = d * code + m, both halves.
template <TensorType type, class Codes, class Layout>
struct OffsetBlock : ScalarBlock<type, kPlainBlock, kPlainBlock> {
  static constexpr float kMaxAbs = kHalfMax;
  static constexpr size_t kBlockBytes = 4 + Layout::kBytes;
  using Scales = HalfAffine;

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    AffineMoments moments;
    AffineFit fit;
    SearchAffine<Codes, kPlainBlock, false>(x, w, 2, moments, fit);
    RoundScale(fit.scale, s.d);
    RoundScale(fit.offset, s.m);
    Scales classic;
    RoundScale((moments.high - moments.low) / static_cast<float>(Codes::kHigh), classic.d);
    RoundScale(moments.low, classic.m);
    F32x error;
    F32x classic_error;
    AffineError<Codes, kPlainBlock>(x, w, s.d.value, s.d.inverse, s.m.value, error);
    AffineError<Codes, kPlainBlock>(x, w, classic.d.value, classic.d.inverse, classic.m.value, classic_error);
    I32x worse;
    Less(classic_error, error, worse);
    SelectScale(worse, classic.d, s.d);
    SelectScale(worse, classic.m, s.m);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t, const float* x, const float*, uint8_t* code,
                                 F32x* y) {
    F32x v;
    F32x q;
    Load(x, v);
    Codes::NearestCode((v - s.m.value) * s.d.inverse, q, code);
    *y = s.d.value * q + s.m.value;
  }

  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PutHalf(s.d.bits, lane, block);
    PutHalf(s.m.bits, lane, block + 2);
    Layout::Pack(codes, block + 4);
  }
};

using BlockQ4_1 = OffsetBlock<TensorType::kQ4_1, Linear<0, 15>, NibbleCodes>;
using BlockQ5_1 = OffsetBlock<TensorType::kQ5_1, Linear<0, 31>, FiveBitCodes>;

// MXFP4: a power of two as its exponent (byte e stands for 2^(e - 128)), 16 bytes of codes.
struct BlockMXFP4 : ScalarBlock<TensorType::kMXFP4, kPlainBlock, kPlainBlock> {
  static constexpr float kMaxAbs = 0x1.fffffep127f;
  static constexpr size_t kBlockBytes = 1 + NibbleCodes::kBytes;

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
      ForEach<kBlock>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
        F32x q;
        Fp4::Nearest(v * trial.inverse, q);
        // In units of the largest magnitude, so that nothing over- or underflows when squared.
        const F32x off = (v - trial.value * q) * per_extreme;
        error += weight * off * off;
      });
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

  PYGROK_LANES static void Round(const Scales& s, size_t, const float* x, const float*, uint8_t* code,
                                 F32x* y) {
    RoundToScale<Fp4>(x, s.value, s.inverse, code, *y);
  }

  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    block[0] = static_cast<uint8_t>(s.exponent[lane]);
    NibbleCodes::Pack(codes, block + 1);
  }
};

}  // namespace
}  // namespace pygrok
