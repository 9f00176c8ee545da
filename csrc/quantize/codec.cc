#include "quantize/codec.h"

#include <bit>
#include <stdexcept>
#include <string>

#include "quantize/isa.inl.h"
#include "quantize/lanes.h"
#include "util/error.h"

namespace pygrok {
namespace {

using Family = std::span<const Codec> (*)(CodecIsa isa);
constexpr Family kFamilies[] = {PlainCodecs, KCodecs, CodebookCodecs};

PYGROK_LANES bool Within(const float* x, size_t n, float limit) {
  // As integers, magnitudes rise with their values; infinity and NaN are above all others.
  const int32_t most = std::bit_cast<int32_t>(limit);
  I32x outside = {};
  for (size_t i = 0; i < n; i += kLanes) {
    F32x v;
    Load(x + i, v);
    outside |= (most - (I32x)((U32x)v & 0x7fffffffu)) >> 31;
  }
  int32_t any = 0;
  for (size_t r = 0; r < kLanes; ++r) any |= outside[r];
  return any == 0;
}

CodecIsa Detect() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return CodecIsa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return CodecIsa::kAvx2;
#endif
  return CodecIsa::kBaseline;
}

constexpr const char* kIsaNames[] = {"baseline", "avx2", "avx512"};

}  // namespace

CodecIsa BestCodecIsa() {
  static const CodecIsa best = Detect();
  return best;
}

CodecIsa CodecIsaNamed(std::string_view name) {
  const size_t last = static_cast<size_t>(BestCodecIsa());
  if (name.empty()) return BestCodecIsa();
  std::string choices;
  for (size_t i = 0; i <= last; ++i) {
    if (name == kIsaNames[i]) return static_cast<CodecIsa>(i);
    choices += (i == 0 ? "" : ", ") + std::string(kIsaNames[i]);
  }
  throw std::invalid_argument("no encoders for isa '" + std::string(name) + "' here; choose one of " +
                              choices);
}

const Codec& CodecOf(TensorType type, CodecIsa isa) {
  std::string names;
  for (const Family family : kFamilies) {
    for (const Codec& codec : family(isa)) {
      if (codec.type == type) return codec;
      names += (names.empty() ? "" : ", ") + std::string(InfoOf(codec.type).name);
    }
  }
  throw ModelError(std::string("cannot write tensors of type ") + InfoOf(type).name + "; choose one of " +
                   names);
}

bool AllWithin(const float* x, size_t n, float limit) { return ForEachIsa<Within>::Best()(x, n, limit); }

void ThrowDoesNotFit(const Codec& codec) {
  throw ModelError(std::string("holds NaN, infinity or a value beyond the range of ") +
                   InfoOf(codec.type).name);
}

}  // namespace pygrok
