// The vocabulary's integer dot products (see simd_scalar.h) in NEON, and what goes with them.
#pragma once

#include "kernels/activations.h"

namespace pygrok {
namespace {

// Signed by signed, four products to a lane, exact in 32 bits; all codes of weights are below 128, so they
// are signed bytes as well. Step is what processors differ in.
struct SignedSums {
  using Acc = I32;
  static Acc Nothing() { return SplatI32(0); }
  static Acc Join(Acc a, Acc b) { return AddI32(a, b); }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static F32 Finish(Acc acc, const ActivationBlock&) { return ToFloat(acc); }
};

#ifdef __ARM_FEATURE_DOTPROD
// Four values of an activation block: a lane of the 16 in a register, which the instruction takes as it is.
#define PYGROK_FOUR_OF_BLOCK
struct Four {
  int8x16_t values;
  size_t lane;
};
inline Four FourOfBlock(const int8_t* values, size_t j) { return {vld1q_s8(values + j / 4 * 16), j % 4}; }

struct DotSigned : SignedSums {
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    return {vdotq_s32(acc.lo, Signed(w.lo), Signed(a.lo)), vdotq_s32(acc.hi, Signed(w.hi), Signed(a.hi))};
  }
  template <int kLane>
  static Acc Step(Acc acc, Bytes w, int8x16_t a) {
    return {vdotq_laneq_s32(acc.lo, Signed(w.lo), a, kLane), vdotq_laneq_s32(acc.hi, Signed(w.hi), a, kLane)};
  }
  static Acc Step(Acc acc, Bytes w, Four a) {
    return a.lane == 0   ? Step<0>(acc, w, a.values)
           : a.lane == 1 ? Step<1>(acc, w, a.values)
           : a.lane == 2 ? Step<2>(acc, w, a.values)
                         : Step<3>(acc, w, a.values);
  }
};
struct DotCode : DotSigned {};
struct DotNibble : DotSigned {
  template <size_t>
  static Acc Init(const ActivationBlock& a) {
    return SplatI32(a.minus_8_sum);
  }
};
inline I32 SplatSum(int32_t value) { return SplatI32(value); }
#else
// Neighbouring products are added in 16 bits: activations are at most 127 in size (prepare.inl.h), so also
// with hostile weights a pair is at most 2 * 128 * 127 = 32512.
inline int32x4_t AddProducts(int32x4_t acc, uint8x16_t w, uint8x16_t a) {
  const int16x8_t low = vmull_s8(vget_low_s8(Signed(w)), vget_low_s8(Signed(a)));
  const int16x8_t high = vmull_high_s8(Signed(w), Signed(a));
  return vpadalq_s16(acc, vpaddq_s16(low, high));
}
struct DotSigned : SignedSums {
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    return {AddProducts(acc.lo, w.lo, a.lo), AddProducts(acc.hi, w.hi, a.hi)};
  }
};

// Sums of products in 16 bits, one for each of the four bytes of a row, and what is to be added at the end.
struct CodeSums {
  int16x8_t lo[2], hi[2];
  int32x4_t offset;
};
inline CodeSums SplatSum(int32_t value) {
  const int16x8_t zero = vdupq_n_s16(0);
  return {{zero, zero}, {zero, zero}, vdupq_n_s32(value)};
}
// A lane sums 8 products of codes up to 31 or, in the halves of a block, 4 of codes up to 63: at most
// 8 * 31 * 127 = 31496 or 4 * 63 * 127 = 32004.
struct DotCode {
  using Acc = CodeSums;
  static Acc Nothing() { return SplatSum(0); }
  static Acc Join(Acc a, Acc b) {
    return {{vaddq_s16(a.lo[0], b.lo[0]), vaddq_s16(a.lo[1], b.lo[1])},
            {vaddq_s16(a.hi[0], b.hi[0]), vaddq_s16(a.hi[1], b.hi[1])},
            vaddq_s32(a.offset, b.offset)};
  }
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
  static Acc Step(Acc acc, Bytes w, Bytes a) {
    const int8x8_t a_low = vget_low_s8(Signed(a.lo));
    return {{vmlal_s8(acc.lo[0], vget_low_s8(Signed(w.lo)), a_low),
             vmlal_high_s8(acc.lo[1], Signed(w.lo), Signed(a.lo))},
            {vmlal_s8(acc.hi[0], vget_low_s8(Signed(w.hi)), a_low),
             vmlal_high_s8(acc.hi[1], Signed(w.hi), Signed(a.hi))},
            acc.offset};
  }
  static int32x4_t RowSums(const int16x8_t sums[2], int32x4_t offset) {
    return vaddq_s32(vpaddq_s32(vpaddlq_s16(sums[0]), vpaddlq_s16(sums[1])), offset);
  }
  static F32 Finish(Acc acc, const ActivationBlock&) {
    return ToFloat({RowSums(acc.lo, acc.offset), RowSums(acc.hi, acc.offset)});
  }
};
struct DotNibble : DotCode {
  template <size_t>
  static Acc Init(const ActivationBlock& a) {
    return SplatSum(a.minus_8_sum);
  }
};
#endif

inline uint32_t MaxMagnitudeBits(const float* x) {
  uint32x4_t max = vdupq_n_u32(0);
#pragma GCC unroll 8
  for (size_t i = 0; i < kBlockValues; i += 4) {
    max = vmaxq_u32(max, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
  }
  return vmaxvq_u32(max);
}
inline int32_t QuantizeBlock(const float* x, float scale, int8_t* values) {
  int32x4_t sums = vdupq_n_s32(0);
#pragma GCC unroll 2
  for (size_t i = 0; i < kBlockValues; i += 16) {
    int32x4_t q[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) q[j] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * j), scale));
    sums = vaddq_s32(sums, vaddq_s32(vaddq_s32(q[0], q[1]), vaddq_s32(q[2], q[3])));
    const int16x8_t a = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
    const int16x8_t b = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    vst1q_s8(values + i, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
  }
  return vaddvq_s32(sums);
}

inline void Prefetch(uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2); }
inline I32 Forget(I32 x) {
  __asm__ volatile("" : "+w"(x.lo), "+w"(x.hi));
  return x;
}
inline Bytes Forget(Bytes x) {
  __asm__ volatile("" : "+w"(x.lo), "+w"(x.hi));
  return x;
}
inline int32_t FirstLane(I32 x) { return vgetq_lane_s32(x.lo, 0); }

}  // namespace
}  // namespace pygrok
