// Fits of a scale and an offset: value = scale * q + offset. Codes are integers from 0 up: Linear<0, ...>.
#pragma once

#include <cstddef>
#include <iterator>

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
  ForEach<kCount>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
    m.w += weight;
    m.wx += weight * v;
  });
}

// The least-squares scale and offset for some codes; they leave the error sum(w x x) - gain.
struct AffineFit {
  F32x scale;
  F32x offset;
  F32x gain;
  F32x curvature;  // of the error in the scale: sum(w (q - mean q)^2) if the offset follows, else sum(w q^2)
};

// Codes are those nearest to x * inverse + shift. With kNoPositive the offset is at most 0.
template <class Codes, size_t kCount, bool kNoPositive>
PYGROK_LANES void FitAffine(const float* x, const float* w, const AffineMoments& m, const F32x& inverse,
                            const F32x& shift, AffineFit& fit) {
  F32x wq = {};
  F32x wqq = {};
  F32x wqx = {};
  ForEach<kCount>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
    F32x q;
    Codes::Nearest(v * inverse + shift, q);
    const F32x term = weight * q;
    wq += term;
    wqq += term * q;
    wqx += term * v;
  });
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

// The best of the codes that give the lowest value the code a and the highest the last code - b, for all a
// and b of kEnds, each refitted; then `refits` more rounds. Without any gain, scale 0 and the mean for an
// offset.
template <class Codes, size_t kCount, bool kNoPositive>
PYGROK_LANES void SearchAffine(const float* x, const float* w, size_t refits, AffineMoments& m,
                               AffineFit& best) {
  constexpr float kEnds[] = {-0.75f, -0.35f, 0.05f, 0.45f, 0.85f};
  constexpr size_t kTrials = std::size(kEnds) * std::size(kEnds);
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
  for (size_t trial = 0; trial < kTrials + refits; ++trial) {
    AffineFit fit;
    F32x inverse;
    F32x shift;
    if (trial < kTrials) {
      const float a = kEnds[trial / std::size(kEnds)];
      const float b = kEnds[trial % std::size(kEnds)];
      inverse = (static_cast<float>(Codes::kHigh) - a - b) * per_range;
      shift = a - low * inverse;
    } else {
      Invert(best.scale, inverse);
      shift = -best.offset * inverse;
    }
    FitAffine<Codes, kCount, kNoPositive>(x, w, m, inverse, shift, fit);
    I32x better;
    Less(best.gain, fit.gain, better);
    Select(better, fit.scale, best.scale);
    Select(better, fit.offset, best.offset);
    Select(better, fit.gain, best.gain);
    Select(better, fit.curvature, best.curvature);
  }
}

// Weighted squared error of the nearest codes under a scale and an offset as stored.
template <class Codes, size_t kCount>
PYGROK_LANES void AffineError(const float* x, const float* w, const F32x& scale, const F32x& inverse,
                              const F32x& offset, F32x& error) {
  error = F32x{};
  ForEach<kCount>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
    F32x q;
    Codes::Nearest((v - offset) * inverse, q);
    const F32x off = v - (scale * q + offset);
    error += weight * off * off;
  });
}

}  // namespace
}  // namespace pygrok
