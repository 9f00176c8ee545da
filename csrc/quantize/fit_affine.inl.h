// Fits of a scale and an offset: value = scale * q + offset, q = 0..kMax.
#pragma once

#include <cstddef>

#include "quantize/fit.inl.h"

namespace pygrok {
namespace {

// What the fits of one run of values have in common.
struct AffineMoments {
  F32x w;   // sum(w)
  F32x wx;  // sum(w x)
  F32x low;
  F32x high;
};

template <size_t kCount>
PYGROK_LANES void TakeMoments(const float* x, const float* w, AffineMoments& m) {
  Extremes<kCount>(x, m.low, m.high);
  m.w = F32x{};
  m.wx = F32x{};
  for (size_t i = 0; i < kCount; ++i) {
    F32x v;
    F32x weight;
    Load(x + i * kLanes, v);
    Load(w + i * kLanes, weight);
    m.w += weight;
    m.wx += weight * v;
  }
}

// The least-squares scale and offset for some codes; they leave the error sum(w x x) - gain.
struct AffineFit {
  F32x scale;
  F32x offset;
  F32x gain;
  F32x curvature;  // of the error in the scale: sum(w (q - mean q)^2) if the offset follows, else sum(w q^2)
};

template <int kMax>
PYGROK_LANES void AffineCode(const F32x& scaled, F32x& q) {
  q = scaled;
  Clamp(q, 0.0f, static_cast<float>(kMax));
  pygrok::Round(q);
}

// Codes are those nearest to x * inverse + shift. With kNoPositive the offset is at most 0.
template <size_t kCount, int kMax, bool kNoPositive>
PYGROK_LANES void FitAffine(const float* x, const float* w, const AffineMoments& m, const F32x& inverse,
                            const F32x& shift, AffineFit& fit) {
  F32x wq = {};
  F32x wqq = {};
  F32x wqx = {};
  for (size_t i = 0; i < kCount; ++i) {
    F32x v;
    F32x weight;
    F32x q;
    Load(x + i * kLanes, v);
    Load(w + i * kLanes, weight);
    AffineCode<kMax>(v * inverse + shift, q);
    const F32x term = weight * q;
    wq += term;
    wqq += term * q;
    wqx += term * v;
  }
  const F32x mean = wq / m.w;
  fit.curvature = wqq - wq * mean;
  I32x unusable;
  Less(fit.curvature, 1e-5f * wqq, unusable);  // as good as one code for all
  Invert(fit.curvature, fit.scale);
  fit.scale *= wqx - m.wx * mean;
  fit.offset = (m.wx - fit.scale * wq) / m.w;
  if constexpr (kNoPositive) {
    // No offset is best; nor can one be told from the scale if all codes are alike.
    I32x none;
    Less(F32x{}, fit.offset, none);
    none |= unusable;
    Select(none, F32x{}, fit.offset);
    F32x scale;
    Invert(wqq, scale);
    scale *= wqx;
    Select(none, scale, fit.scale);
    Select(none, wqq, fit.curvature);
    unusable = I32x{};
  }
  fit.gain = fit.scale * wqx + fit.offset * m.wx;
  Select(unusable | (I32x)fit.scale >> 31, F32x{} - 1.0f, fit.gain);
}

// The best of the codes that give the lowest value the code a and the highest kMax - b, for all a and b of
// `ends`, each refitted; then `refits` more rounds. Without any gain, scale 0 and the mean for an offset.
template <size_t kCount, int kMax, bool kNoPositive, size_t kEnds>
PYGROK_LANES void SearchAffine(const float* x, const float* w, const float (&ends)[kEnds], size_t refits,
                               AffineMoments& m, AffineFit& best) {
  TakeMoments<kCount>(x, w, m);
  F32x low = m.low;
  best = AffineFit{};
  best.offset = m.wx / m.w;
  if constexpr (kNoPositive) {
    low = (F32x)((I32x)low & (I32x)low >> 31);
    best.offset = (F32x)((I32x)best.offset & (I32x)best.offset >> 31);
  }
  F32x per_range;
  Invert(m.high - low, per_range);
  best.gain = best.offset * m.wx;
  for (size_t trial = 0; trial < kEnds * kEnds + refits; ++trial) {
    AffineFit fit;
    F32x inverse;
    F32x shift;
    if (trial < kEnds * kEnds) {
      const float a = ends[trial / kEnds];
      inverse = (static_cast<float>(kMax) - a - ends[trial % kEnds]) * per_range;
      shift = a - low * inverse;
    } else {
      Invert(best.scale, inverse);
      shift = -best.offset * inverse;
    }
    FitAffine<kCount, kMax, kNoPositive>(x, w, m, inverse, shift, fit);
    I32x better;
    Less(best.gain, fit.gain, better);
    Select(better, fit.scale, best.scale);
    Select(better, fit.offset, best.offset);
    Select(better, fit.gain, best.gain);
    Select(better, fit.curvature, best.curvature);
  }
}

// Weighted squared error of the nearest codes under a scale and an offset as stored.
template <size_t kCount, int kMax>
PYGROK_LANES void AffineError(const float* x, const float* w, const F32x& scale, const F32x& inverse,
                              const F32x& offset, F32x& error) {
  error = F32x{};
  for (size_t i = 0; i < kCount; ++i) {
    F32x v;
    F32x weight;
    F32x q;
    Load(x + i * kLanes, v);
    Load(w + i * kLanes, weight);
    AffineCode<kMax>((v - offset) * inverse, q);
    const F32x off = v - (scale * q + offset);
    error += weight * off * off;
  }
}

}  // namespace
}  // namespace pygrok
