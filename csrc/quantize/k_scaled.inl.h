// Super-blocks of 256 values without minima: value = d * sub-scale * code. Q3_K, Q6_K, IQ4_XS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/k_super.inl.h"

namespace pygrok {
namespace {

// Values: the codes. SubCodes: the integers that sub-scales are stored as. kTrials: of SearchScale.
template <TensorType type, class Values, class SubCodes, size_t kSub, const auto& kTrials>
struct ScaledSuperBlock : ScalarBlock<type, kSuperBlock, kSub> {
  static constexpr float kMaxAbs =
      kHalfMax * static_cast<float>(-SubCodes::kLow) * static_cast<float>(-Values::kLow);
  static constexpr size_t kSubs = kSuperBlock / kSub;

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

  PYGROK_LANES static void FitSub(const float* x, const float* w, ScaleFit& fit) {
    SearchScale<Values, kSub>(x, w, kTrials, 1, fit);
  }

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    alignas(64) float ideal[kSubs * kLanes];
    alignas(64) float curvature[kSubs * kLanes];
    for (size_t sub = 0; sub < kSubs; ++sub) {
      ScaleFit fit;
      FitSub(x + sub * kSub * kLanes, w + sub * kSub * kLanes, fit);
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
    for (size_t round = 0; round < kSuperRounds; ++round) {
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

  PYGROK_LANES static void Refit(size_t sub, const float* x, const float* w, Scales& s) {
    ScaleFit fit;
    FitSub(x, w, fit);
    ChooseCode(sub, x, w, fit.scale * s.d.inverse, s);
  }

  // The least-squares super-scale for all codes as they are.
  PYGROK_LANES static void RefitSuperScale(const float* x, const float* w, Scales& s) {
    F32x qx = {};
    F32x qq = {};
    for (size_t sub = 0; sub < kSubs; ++sub) {
      const size_t at = sub * kSub * kLanes;
      ForEach<kSub>(x + at, w + at, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
        F32x q;
        Values::Nearest(v * s.inverse[sub], q);
        q *= s.code[sub];
        const F32x wq = weight * q;
        qx += wq * v;
        qq += wq * q;
      });
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

  PYGROK_LANES static void Round(const Scales& s, size_t group, const float* x, const float*, uint8_t* code,
                                 F32x* y) {
    RoundToScale<Values>(x, s.value[group / kSub], s.inverse[group / kSub], code, *y);
  }
};

}  // namespace
}  // namespace pygrok
