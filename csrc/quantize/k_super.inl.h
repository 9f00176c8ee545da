// What the super-blocks of 256 values have in common: a super-scale, by which small integers are multiplied
// to give the scales of sub-blocks.
#pragma once

#include <cstddef>

#include "quantize/fit.inl.h"

namespace pygrok {
namespace {

constexpr size_t kSuperBlock = 256;

// How often the sub-blocks' integers are chosen and the super-scale is fitted to them.
constexpr size_t kSuperRounds = 2;

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

}  // namespace
}  // namespace pygrok
