// Super-blocks of 256 values with minima: value = d * sub-scale * code - dmin * sub-minimum. Q2_K, Q4_K,
// Q5_K.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/codes.inl.h"
#include "quantize/fit_affine.inl.h"
#include "quantize/k_super.inl.h"

namespace pygrok {
namespace {

// Sub-scales and sub-minima are 0..kSubMax.
template <TensorType type, class Codes, int kSubMax, size_t kSub>
struct OffsetSuperBlock : ScalarBlock<type, kSuperBlock, kSub> {
  static constexpr float kMaxAbs = kHalfMax * static_cast<float>(kSubMax);
  static constexpr size_t kSubs = kSuperBlock / kSub;
  using SubCodes = Linear<0, kSubMax>;

  struct Scales {
    HalfScale d;
    HalfScale dmin;
    F32x scale_code[kSubs];
    F32x min_code[kSubs];
    F32x scale[kSubs];  // d * scale_code
    F32x inverse[kSubs];
    F32x min[kSubs];  // dmin * min_code
  };

  // The best of the scale codes next to `wanted`, each with the minimum that suits it, under the values' own
  // error.
  PYGROK_LANES static void ChooseCodes(size_t sub, const float* x, const float* w, const F32x& wanted,
                                       const F32x& wanted_min, Scales& s) {
    F32x best = {};
    for (int step = -1; step <= 1; ++step) {
      F32x code;
      SubCodes::Nearest(wanted + static_cast<float>(step), code);
      const F32x scale = s.d.value * code;
      F32x inverse;
      Invert(scale, inverse);
      F32x min;
      FitMin(x, w, scale, inverse, wanted_min, min);
      F32x min_code;
      SubCodes::Nearest(min * s.dmin.inverse, min_code);
      min = s.dmin.value * min_code;
      F32x error;
      AffineError<Codes, kSub>(x, w, scale, inverse, -min, error);
      I32x better = I32x{} - 1;
      if (step != -1) Less(error, best, better);
      Select(better, error, best);
      Select(better, code, s.scale_code[sub]);
      Select(better, min_code, s.min_code[sub]);
      Select(better, scale, s.scale[sub]);
      Select(better, inverse, s.inverse[sub]);
      Select(better, min, s.min[sub]);
    }
  }

  // The least-squares minimum for the codes that a scale and another minimum give.
  PYGROK_LANES static void FitMin(const float* x, const float* w, const F32x& scale, const F32x& inverse,
                                  const F32x& from, F32x& min) {
    F32x sum = {};
    F32x off = {};
    ForEach<kSub>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
      F32x q;
      Codes::Nearest((v + from) * inverse, q);
      sum += weight;
      off += weight * (scale * q - v);
    });
    min = off / sum;
  }

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    alignas(64) float scales[kSubs * kLanes];
    alignas(64) float minima[kSubs * kLanes];
    alignas(64) float curvature[kSubs * kLanes];
    alignas(64) float weight[kSubs * kLanes];
    for (size_t sub = 0; sub < kSubs; ++sub) {
      AffineMoments moments;
      AffineFit fit;
      FitSub(x + sub * kSub * kLanes, w + sub * kSub * kLanes, moments, fit);
      Store(fit.scale, scales + sub * kLanes);
      Store(-fit.offset, minima + sub * kLanes);
      Store(fit.curvature, curvature + sub * kLanes);
      Store(moments.w, weight + sub * kLanes);
    }
    constexpr float kTop = kSubMax;
    constexpr float kSuperTrials[] = {kTop + 0.3f,  kTop,         kTop * 0.98f, kTop * 0.96f,
                                      kTop * 0.94f, kTop * 0.92f, kTop * 0.9f,  kTop * 0.87f};
    ScaleFit fit;
    SearchScale<SubCodes, kSubs>(scales, curvature, kSuperTrials, 1, fit);
    RoundSuperScale(fit.scale, s.d);
    SearchScale<SubCodes, kSubs>(minima, weight, kSuperTrials, 1, fit);
    RoundSuperScale(fit.scale, s.dmin);
    for (size_t round = 0; round < kSuperRounds; ++round) {
      for (size_t sub = 0; sub < kSubs; ++sub) {
        F32x wanted = s.scale_code[sub];
        F32x wanted_min = s.min[sub];
        if (round == 0) {
          Load(scales + sub * kLanes, wanted);
          wanted *= s.d.inverse;
          Load(minima + sub * kLanes, wanted_min);
        }
        ChooseCodes(sub, x + sub * kSub * kLanes, w + sub * kSub * kLanes, wanted, wanted_min, s);
      }
      RefitSuperScales(x, w, s);
    }
  }

  // The least-squares d and dmin for all codes as they are.
  PYGROK_LANES static void RefitSuperScales(const float* x, const float* w, Scales& s) {
    F32x aa = {};
    F32x ab = {};
    F32x bb = {};
    F32x ax = {};
    F32x bx = {};
    for (size_t sub = 0; sub < kSubs; ++sub) {
      const F32x b = -s.min_code[sub];
      const size_t at = sub * kSub * kLanes;
      ForEach<kSub>(x + at, w + at, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
        F32x a;
        Codes::Nearest((v + s.min[sub]) * s.inverse[sub], a);
        a *= s.scale_code[sub];
        const F32x wa = weight * a;
        const F32x wb = weight * b;
        aa += wa * a;
        ab += wa * b;
        bb += wb * b;
        ax += wa * v;
        bx += wb * v;
      });
    }
    const F32x determinant = aa * bb - ab * ab;
    F32x per_determinant;
    Invert(determinant, per_determinant);
    F32x d = s.d.value;
    F32x dmin = s.dmin.value;
    const F32x new_d = (ax * bb - bx * ab) * per_determinant;
    const F32x new_dmin = (bx * aa - ax * ab) * per_determinant;
    I32x determined;
    I32x d_positive;
    I32x dmin_positive;
    Less(1e-4f * aa * bb, determinant, determined);
    Less(F32x{}, new_d, d_positive);
    Less(F32x{}, new_dmin, dmin_positive);
    Select(determined & d_positive & dmin_positive, new_d, d);
    Select(determined & d_positive & dmin_positive, new_dmin, dmin);
    RoundSuperScale(d, s.d);
    RoundSuperScale(dmin, s.dmin);
    for (size_t sub = 0; sub < kSubs; ++sub) {
      s.scale[sub] = s.d.value * s.scale_code[sub];
      s.min[sub] = s.dmin.value * s.min_code[sub];
      Invert(s.scale[sub], s.inverse[sub]);
    }
  }

  PYGROK_LANES static void FitSub(const float* x, const float* w, AffineMoments& moments, AffineFit& fit) {
    SearchAffine<Codes, kSub, true>(x, w, 1, moments, fit);
  }

  PYGROK_LANES static void Refit(size_t sub, const float* x, const float* w, Scales& s) {
    AffineMoments moments;
    AffineFit fit;
    FitSub(x, w, moments, fit);
    ChooseCodes(sub, x, w, fit.scale * s.d.inverse, -fit.offset, s);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t group, const float* x, const float*, uint8_t* code,
                                 F32x* y) {
    const size_t sub = group / kSub;
    F32x v;
    F32x q;
    Load(x, v);
    Codes::NearestCode((v + s.min[sub]) * s.inverse[sub], q, code);
    *y = s.scale[sub] * q - s.min[sub];
  }
};

}  // namespace
}  // namespace pygrok
