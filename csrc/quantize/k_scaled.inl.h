// Super-blocks of 256 values without minima: value = d * sub-scale * code. Q3_K, Q6_K, IQ4_XS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/codes.inl.h"
#include "quantize/fit.inl.h"

namespace pygrok {
namespace {

constexpr size_t kSuperBlock = 256;

// A scale that is too small for a half becomes the smallest half, so that sub-scales can still choose.
PYGROK_LANES void RoundSuperScale(const F32x& d, HalfScale& scale) {
  constexpr float kLeast = 0x1p-24f;
  F32x magnitude;
  Magnitude(d, magnitude);
  I32x positive;
  I32x below;
  Less(F32x{}, magnitude, positive);
  Less(magnitude, F32x{} + kLeast, below);
  F32x usable = d;
  Select(positive & below, F32x{} + kLeast, usable);
  RoundScale(usable, scale);
}

// Values: the codes. SubCodes: the integers that sub-scales are stored as.
template <TensorType type, class Values, class SubCodes, size_t kSub>
struct ScaledSuperBlock {
  static constexpr TensorType kType = type;
  static constexpr float kMaxAbs =
      kHalfMax * static_cast<float>(-SubCodes::kLow) * static_cast<float>(-Values::kLow);
  static constexpr bool kNeedsImportance = false;
  static constexpr size_t kBlock = kSuperBlock;
  static constexpr size_t kGroup = 1;
  static constexpr size_t kSubBlock = kSub;
  static constexpr size_t kSubs = kSuperBlock / kSub;
  static constexpr size_t kRounds = 2;
  using Code = uint8_t;

  struct Scales {
    HalfScale d;
    F32x code[kSubs];
    F32x value[kSubs];  // d * code
    F32x inverse[kSubs];
  };

  // The best of the codes next to `wanted` under the values' own error.
  PYGROK_LANES static void ChooseCode(size_t sub, const float* x, const float* w, const F32x& wanted,
                                      Scales& s) {
    F32x best = {};
    for (int step = -1; step <= 1; ++step) {
      F32x code;
      SubCodes::Nearest(wanted + static_cast<float>(step), code);
      const F32x value = s.d.value * code;
      F32x inverse;
      F32x error;
      Invert(value, inverse);
      ScaleError<Values, kSub>(x, w, value, inverse, error);
      I32x better = I32x{} - 1;
      if (step != -1) Less(error, best, better);
      Select(better, error, best);
      Select(better, code, s.code[sub]);
      Select(better, value, s.value[sub]);
      Select(better, inverse, s.inverse[sub]);
    }
  }

  template <size_t kTrials>
  PYGROK_LANES static void FitSub(const float* x, const float* w, const float (&trials)[kTrials],
                                  ScaleFit& fit) {
    SearchScale<Values, kSub>(x, w, trials, 1, fit);
  }

  template <size_t kTrials>
  PYGROK_LANES static void ChooseFrom(const float* x, const float* w, const float (&trials)[kTrials],
                                      Scales& s) {
    alignas(64) float ideal[kSubs * kLanes];
    alignas(64) float curvature[kSubs * kLanes];
    for (size_t sub = 0; sub < kSubs; ++sub) {
      ScaleFit fit;
      FitSub(x + sub * kSub * kLanes, w + sub * kSub * kLanes, trials, fit);
      Store(fit.scale, ideal + sub * kLanes);
      Store(fit.curvature, curvature + sub * kLanes);
    }
    // The super-scale under which codes come closest to the sub-blocks' own scales.
    constexpr float kLow = SubCodes::kLow;
    constexpr float kHigh = SubCodes::kHigh;
    constexpr float kSuperTrials[] = {kLow,          kLow * 0.97f,  kLow * 0.94f, kLow * 0.91f,
                                      kHigh * 0.99f, kHigh * 0.96f, kHigh * 0.93f};
    ScaleFit fit;
    SearchScale<SubCodes, kSubs>(ideal, curvature, kSuperTrials, 1, fit);
    RoundSuperScale(fit.scale, s.d);
    for (size_t round = 0; round < kRounds; ++round) {
      for (size_t sub = 0; sub < kSubs; ++sub) {
        F32x wanted = s.code[sub];
        if (round == 0) {
          Load(ideal + sub * kLanes, wanted);
          wanted *= s.d.inverse;
        }
        ChooseCode(sub, x + sub * kSub * kLanes, w + sub * kSub * kLanes, wanted, s);
      }
      RefitSuperScale(x, w, s);
    }
  }

  template <size_t kTrials>
  PYGROK_LANES static void RefitFrom(size_t sub, const float* x, const float* w,
                                     const float (&trials)[kTrials], Scales& s) {
    ScaleFit fit;
    FitSub(x, w, trials, fit);
    ChooseCode(sub, x, w, fit.scale * s.d.inverse, s);
  }

  // The least-squares super-scale for all codes as they are.
  PYGROK_LANES static void RefitSuperScale(const float* x, const float* w, Scales& s) {
    F32x qx = {};
    F32x qq = {};
    for (size_t sub = 0; sub < kSubs; ++sub) {
      for (size_t i = sub * kSub; i < (sub + 1) * kSub; ++i) {
        F32x v;
        F32x weight;
        F32x q;
        Load(x + i * kLanes, v);
        Load(w + i * kLanes, weight);
        Values::Nearest(v * s.inverse[sub], q);
        q *= s.code[sub];
        const F32x wq = weight * q;
        qx += wq * v;
        qq += wq * q;
      }
    }
    F32x d;
    Invert(qq, d);
    d *= qx;
    Select((I32x)(qq - 0x1p-90f) >> 31, s.d.value, d);  // no codes to go by
    RoundSuperScale(d, s.d);
    for (size_t sub = 0; sub < kSubs; ++sub) {
      s.value[sub] = s.d.value * s.code[sub];
      Invert(s.value[sub], s.inverse[sub]);
    }
  }

  PYGROK_LANES static void Round(const Scales& s, size_t group, const F32x* x, const F32x*, uint8_t* code,
                                 F32x* y) {
    F32x value;
    Values::NearestCode(*x * s.inverse[group / kSub], value, code);
    *y = s.value[group / kSub] * value;
  }
};

}  // namespace
}  // namespace pygrok
