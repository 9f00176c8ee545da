#include "quantize/codec.h"

#include <string>

#include "quantize/codec.inl.h"
#include "util/error.h"

namespace pygrok {
namespace {

struct CodecSet {
  Codec codecs[5];
  bool (*all_within)(const float* x, size_t n, float limit);
};

// The same source for each instruction set, all with the same results.
#define PYGROK_CODEC_SET(Name, ...)                                                                     \
  namespace Name {                                                                                      \
  __VA_ARGS__ void F32(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {          \
    F32Body(x, n, rows, out, stride);                                                                   \
  }                                                                                                     \
  __VA_ARGS__ void F16(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {          \
    Float16Body<ToHalf>(x, n, rows, out, stride);                                                       \
  }                                                                                                     \
  __VA_ARGS__ void Bf16(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {         \
    Float16Body<ToBf16>(x, n, rows, out, stride);                                                       \
  }                                                                                                     \
  __VA_ARGS__ void Q8_0(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {         \
    Q8_0Body(x, n, rows, out, stride);                                                                  \
  }                                                                                                     \
  __VA_ARGS__ void Q4_0(const float* x, size_t n, size_t rows, std::byte* out, size_t stride) {         \
    Q4_0Body(x, n, rows, out, stride);                                                                  \
  }                                                                                                     \
  __VA_ARGS__ bool Within(const float* x, size_t n, float limit) { return AllWithinBody(x, n, limit); } \
  constexpr CodecSet kSet = {{{TensorType::kF32, 0x1.fffffep127f, F32},                                 \
                              {TensorType::kF16, kHalfMax, F16},                                        \
                              {TensorType::kBF16, 0x1.fep127f, Bf16},                                   \
                              {TensorType::kQ8_0, kHalfMax * 127.0f, Q8_0},                             \
                              {TensorType::kQ4_0, kHalfMax * 8.0f, Q4_0}},                              \
                             Within};                                                                   \
  }

PYGROK_CODEC_SET(baseline)
#if defined(__x86_64__)
PYGROK_CODEC_SET(avx2, [[gnu::target("avx2")]])
PYGROK_CODEC_SET(avx512, [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]])
#endif

const CodecSet& Best() {
#if defined(__x86_64__)
  static const CodecSet& best = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                        __builtin_cpu_supports("avx512vl")
                                    ? avx512::kSet
                                : __builtin_cpu_supports("avx2") ? avx2::kSet
                                                                 : baseline::kSet;
  return best;
#else
  return baseline::kSet;
#endif
}

}  // namespace

const Codec& CodecOf(TensorType type) {
  std::string names;
  for (const Codec& codec : Best().codecs) {
    if (codec.type == type) return codec;
    names += names.empty() ? "" : ", ";
    names += InfoOf(codec.type).name;
  }
  throw ModelError(std::string("cannot write tensors of type ") + InfoOf(type).name + "; choose one of " +
                   names);
}

bool AllWithin(const float* x, size_t n, float limit) { return Best().all_within(x, n, limit); }

void ThrowDoesNotFit(const Codec& codec) {
  throw ModelError(std::string("holds NaN, infinity or a value beyond the range of ") +
                   InfoOf(codec.type).name);
}

}  // namespace pygrok
