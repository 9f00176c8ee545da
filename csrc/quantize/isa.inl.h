// The instruction sets of CodecIsa as the compiler knows them, and functions that are compiled for each.
#pragma once

#include "quantize/codec.h"

#if defined(__x86_64__)
#define PYGROK_AVX2 [[gnu::target("avx2")]]
#define PYGROK_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]]
#endif

namespace pygrok {
namespace {

// A function that is PYGROK_LANES, compiled for each instruction set.
template <auto kBody>
struct ForEachIsa;

template <class Result, class... Args, Result (*kBody)(Args...)>
struct ForEachIsa<kBody> {
  static Result Baseline(Args... args) { return kBody(args...); }
#if defined(__x86_64__)
  PYGROK_AVX2 static Result Avx2(Args... args) { return kBody(args...); }
  PYGROK_AVX512 static Result Avx512(Args... args) { return kBody(args...); }
#endif

  // The one for this processor.
  static auto Best() {
#if defined(__x86_64__)
    if (BestCodecIsa() == CodecIsa::kAvx512) return Avx512;
    if (BestCodecIsa() == CodecIsa::kAvx2) return Avx2;
#endif
    return Baseline;
  }
};

}  // namespace
}  // namespace pygrok
