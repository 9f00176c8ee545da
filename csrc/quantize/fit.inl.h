// Fits of one scale: the search for the scale under which codes come closest to weighted values.
#pragma once

#include <cstddef>

#include "quantize/block_codec.inl.h"
#include "quantize/lanes.h"

namespace pygrok {
namespace {

// A scale as stored in 16 bits, and its inverse: 0 when the stored scale is 0.
struct HalfScale {
  U32x bits;
  F32x value;
  F32x inverse;
};

// Scales beyond the halves become the largest half.
PYGROK_LANES void RoundScale(const F32x& d, HalfScale& scale) {
  F32x within = d;
  Clamp(within, -kHalfMax, kHalfMax);
  ToHalf(within, scale.bits);
  FromHalf(scale.bits, scale.value);
  Invert(scale.value, scale.inverse);
}

PYGROK_LANES void SelectScale(const I32x& mask, const HalfScale& yes, HalfScale& no_and_out) {
  no_and_out.bits = ((U32x)mask & yes.bits) | (~(U32x)mask & no_and_out.bits);
  Select(mask, yes.value, no_and_out.value);
  Select(mask, yes.inverse, no_and_out.inverse);
}

template <size_t kCount>
PYGROK_LANES void Extremes(const float* x, F32x& low, F32x& high) {
  Load(x, low);
  high = low;
  for (size_t i = 1; i < kCount; ++i) {
    F32x v;
    Load(x + i * kLanes, v);
    AtMost(v, low);
    AtLeast(v, high);
  }
}

// The value of the largest magnitude, with its sign.
template <size_t kCount>
PYGROK_LANES void FindExtreme(const float* x, F32x& extreme) {
  F32x low;
  Extremes<kCount>(x, low, extreme);
  I32x below;
  Less(extreme, -low, below);
  Select(below, low, extreme);
}

// With codes q, scale = sum(w q x) / sum(w q q) is the best for them and leaves the squared error
// sum(w x x) - gain.
struct ScaleFit {
  F32x scale;
  F32x gain;
  F32x curvature;  // sum(w q q): what the error grows by with the scale's own squared error
};

template <class Codes, size_t kCount>
PYGROK_LANES void FitScale(const float* x, const float* w, const F32x& inverse, ScaleFit& fit) {
  F32x qx = {};
  F32x qq = {};
  ForEach<kCount>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
    F32x q;
    Codes::Nearest(v * inverse, q);
    const F32x wq = weight * q;
    qx += wq * v;
    qq += wq * q;
  });
  Invert(qq, fit.scale);
  fit.scale *= qx;  // 0 if all codes are 0
  fit.gain = fit.scale * qx;
  fit.curvature = qq;
}

// Weighted squared error of the codes that are nearest under a scale as stored.
template <class Codes, size_t kCount>
PYGROK_LANES void ScaleError(const float* x, const float* w, const F32x& value, const F32x& inverse,
                             F32x& error) {
  error = F32x{};
  ForEach<kCount>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
    F32x q;
    Codes::Nearest(v * inverse, q);
    const F32x off = v - value * q;
    error += weight * off * off;
  });
}

// The code of one value under a scale, and what it stands for.
template <class Codes>
PYGROK_LANES void RoundToScale(const float* x, const F32x& scale, const F32x& inverse, uint8_t* code,
                               F32x& y) {
  F32x v;
  F32x value;
  Load(x, v);
  Codes::NearestCode(v * inverse, value, code);
  y = scale * value;
}

// The best of the scales that map the value of largest magnitude to each of `trials`, each refitted to its
// codes; then `refits` more rounds of codes and scale. Zero if nothing gains.
template <class Codes, size_t kCount, size_t kTrials>
PYGROK_LANES void SearchScale(const float* x, const float* w, const float (&trials)[kTrials], size_t refits,
                              ScaleFit& best) {
  F32x extreme;
  F32x per_extreme;
  FindExtreme<kCount>(x, extreme);
  Invert(extreme, per_extreme);
  best = ScaleFit{};
  for (size_t trial = 0; trial < kTrials + refits; ++trial) {
    ScaleFit fit;
    F32x inverse;
    Invert(best.scale, inverse);
    if (trial < kTrials) inverse = trials[trial] * per_extreme;
    FitScale<Codes, kCount>(x, w, inverse, fit);
    I32x better;
    Less(best.gain, fit.gain, better);
    Select(better, fit.scale, best.scale);
    Select(better, fit.gain, best.gain);
    Select(better, fit.curvature, best.curvature);
  }
}

}  // namespace
}  // namespace pygrok
