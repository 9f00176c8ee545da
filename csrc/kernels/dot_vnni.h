// Dot products with vpdpbusd: four products of a lane are added in 32 bits, exactly, nothing saturates.
// Include from a simd_*.h that has DotBytes, AddInts, SplatInt and FloatsOf.
//
// vpdpbusd takes unsigned bytes on one side: signed weights are stored as w + 128, nibbles as w + 8, and the
// sum starts from what takes the offset out again.
#pragma once

#include "kernels/activations.h"

namespace pygrok {
namespace {

struct DotUnsigned {
  using Acc = Bytes;
  static Acc Nothing() { return NoBytes(); }
  static Acc Join(Acc a, Acc b) { return AddInts(a, b); }
  static Acc Step(Acc acc, Bytes w, Bytes a) { return DotBytes(acc, w, a); }
  static F32 Finish(Acc acc, const ActivationBlock&) { return FloatsOf(acc); }
};

struct DotSigned : DotUnsigned {
  static Bytes Pack(Bytes x) { return Xor(x, SplatByte(-128)); }
  template <size_t kPart>
  static Acc Init(const ActivationBlock& a) {
    return SplatInt(a.minus_128_sum[kPart]);
  }
};

struct DotNibble : DotUnsigned {
  template <size_t>
  static Acc Init(const ActivationBlock& a) {
    return SplatInt(a.minus_8_sum);
  }
};

struct DotCode : DotUnsigned {
  static Bytes Pack(Bytes x) { return x; }
  template <size_t>
  static Acc Init(const ActivationBlock&) {
    return Nothing();
  }
};

}  // namespace
}  // namespace pygrok
