// From the description of a block type to its encoders. A block type T works on one block of 16 rows, a row
// to a lane (lanes.h):
//
//   struct T {
//     static constexpr TensorType kType;
//     static constexpr float kMaxAbs;           // as in Codec
//     static constexpr bool kNeedsImportance;   // as in Codec
//     static constexpr size_t kBlock;           // values of a block
//     static constexpr size_t kBlockBytes;      // of a block of one row
//     static constexpr size_t kGroup;           // values that one code stands for
//     static constexpr size_t kSubBlock;        // values that share a scale
//
//     using Code = uint8_t;
//     struct Scales;                            // all but the codes, as the file will hold it
//
//     // The search for the least sum of w * (x - stored x)^2. x and w are [kBlock][kLanes], w > 0.
//     static void Choose(const float* x, const float* w, Scales& s);
//
//     // Only if kSubBlock < kBlock: chooses anew for one sub-block whose values have changed since; what
//     // sub-blocks share stays. x and w are [kSubBlock][kLanes].
//     static void Refit(size_t sub_block, const float* x, const float* w, Scales& s);
//
//     // The best codes of one group under these scales, [kLanes], and what they stand for, y[kGroup].
//     // x and w are [kGroup][kLanes].
//     static void Round(const Scales& s, size_t group, const float* x, const float* w, Code* code, F32x* y);
//
//     // The bytes of one lane's block, zeroed before, from its codes [kBlock / kGroup].
//     static void Pack(const Scales& s, size_t lane, const Code* codes, uint8_t* block);
//   };
//
// All of it is PYGROK_LANES: inlined into one function per instruction set. Nothing is summed across lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "quantize/codec.h"
#include "quantize/isa.inl.h"
#include "quantize/lanes.h"

namespace pygrok {
namespace {

static_assert(kGroupRows == kLanes);

constexpr float kHalfMax = 65504.0f;

// What scalar quantization has in common: every value has a code of its own.
template <TensorType type, size_t block, size_t sub_block>
struct ScalarBlock {
  static constexpr TensorType kType = type;
  static constexpr bool kNeedsImportance = false;
  static constexpr size_t kBlock = block;
  static constexpr size_t kGroup = 1;
  static constexpr size_t kSubBlock = sub_block;
  using Code = uint8_t;
};

// visit(value, weight) for values in a row.
template <size_t kCount, class Visit>
PYGROK_LANES void ForEach(const float* x, const float* w, const Visit& visit) {
  for (size_t i = 0; i < kCount; ++i) {
    F32x v;
    F32x weight;
    Load(x + i * kLanes, v);
    Load(w + i * kLanes, weight);
    visit(v, weight);
  }
}

// 1 / sqrt(x) for normal x > 0, within 5e-6, by Newton's method: there is no square root of a whole vector
// that every instruction set has.
PYGROK_LANES void InverseRoot(const F32x& x, F32x& root) {
  root = (F32x)(0x5f375a86 - ((I32x)x >> 1));
  for (int i = 0; i < 2; ++i) root *= 1.5f - 0.5f * x * root * root;
}

// What an error in each value costs: the importance of its column. Without one, large values count for more,
// by sqrt(mean square + x^2) of the block: they make up for what is not known of the columns. (With one, that
// factor was measured to cost up to 9% in KL divergence.)
template <class T>
PYGROK_LANES void EncodeWeights(const float* x, const float* importance, float* w) {
  if (importance != nullptr) {
    for (size_t i = 0; i < T::kBlock; ++i) {
      F32x weight;
      Fill(weight, importance[i]);
      Store(weight, w + i * kLanes);
    }
    return;
  }
  F32x largest = {};
  for (size_t i = 0; i < T::kBlock; ++i) {
    F32x magnitude;
    Load(x + i * kLanes, magnitude);
    Magnitude(magnitude, magnitude);
    AtLeast(magnitude, largest);
  }
  // Relative to the largest value, so that squares neither overflow nor vanish.
  F32x unit;
  Invert(largest, unit);
  F32x mean = {};
  for (size_t i = 0; i < T::kBlock; ++i) {
    F32x v;
    Load(x + i * kLanes, v);
    v *= unit;
    mean += v * v;
  }
  mean = mean / static_cast<float>(T::kBlock) + 1e-30f;
  for (size_t i = 0; i < T::kBlock; ++i) {
    F32x v;
    F32x root;
    Load(x + i * kLanes, v);
    v *= unit;
    const F32x square = v * v + mean;
    InverseRoot(square, root);
    root *= square;
    Store(root, w + i * kLanes);
  }
}

template <class T>
PYGROK_LANES void PackRows(const typename T::Scales& s, const typename T::Code* codes, size_t rows,
                           std::byte* out, size_t stride) {
  for (size_t r = 0; r < rows; ++r) {
    typename T::Code row[T::kBlock / T::kGroup];
    for (size_t g = 0; g < T::kBlock / T::kGroup; ++g) row[g] = codes[g * kLanes + r];
    uint8_t block[T::kBlockBytes] = {};
    T::Pack(s, r, row, block);
    std::memcpy(out + r * stride, block, sizeof(block));
  }
}

// Isa: the searches, compiled for the instruction set that this is inlined for.
template <class T, class Isa>
PYGROK_LANES void EncodeBlocks(const EncodeArgs& args) {
  constexpr size_t kGroups = T::kBlock / T::kGroup;
  alignas(64) float w[T::kBlock * kLanes];
  typename T::Code codes[kGroups * kLanes];
  typename T::Scales scales;
  std::byte* out = args.out;
  for (size_t b = 0; b < args.n; b += T::kBlock, out += T::kBlockBytes) {
    const float* const x = args.x + b * kLanes;
    EncodeWeights<T>(x, args.importance == nullptr ? nullptr : args.importance + b, w);
    Isa::template Choose<T>(x, w, scales);
    for (size_t g = 0; g < kGroups; ++g) {
      const size_t at = g * T::kGroup * kLanes;
      F32x stored[T::kGroup];
      T::Round(scales, g, x + at, w + at, codes + g * kLanes, stored);
    }
    PackRows<T>(scales, codes, args.rows, out, args.stride);
  }
}

template <class T, class Isa>
PYGROK_LANES void CompensateBlock(const CompensateArgs& args) {
  alignas(64) float x[T::kBlock * kLanes];
  alignas(64) float w[T::kBlock * kLanes];
  typename T::Code codes[T::kBlock / T::kGroup * kLanes];
  typename T::Scales scales;
  // An error in column i costs 1 / U_ii^2 after all later columns have done their best to mend it. Relative
  // to the first column's, since the Hessian may have any scale.
  for (size_t i = 0; i < T::kBlock; ++i) {
    const float ratio = args.factor[0] / args.factor[i * args.factor_stride + i];
    F32x weight;
    Fill(weight, ratio * ratio);
    Store(weight, w + i * kLanes);
  }
  std::memcpy(x, args.x, sizeof(x));
  Isa::template Choose<T>(x, w, scales);

  for (size_t first = 0; first < T::kBlock; first += T::kGroup) {
    if constexpr (T::kSubBlock < T::kBlock) {
      if (first != 0 && first % T::kSubBlock == 0) {
        Isa::template Refit<T>(first / T::kSubBlock, x + first * kLanes, w + first * kLanes, scales);
      }
    }
    const size_t group = first / T::kGroup;
    F32x stored[T::kGroup];
    T::Round(scales, group, x + first * kLanes, w + first * kLanes, codes + group * kLanes, stored);
    for (size_t i = first; i < first + T::kGroup; ++i) {
      const float* const row = args.factor + i * args.factor_stride;
      F32x error;
      Load(x + i * kLanes, error);
      error = (error - stored[i - first]) / row[i];
      Store(error, args.error + i * kLanes);
      for (size_t j = i + 1; j < T::kBlock; ++j) {
        F32x later;
        Load(x + j * kLanes, later);
        later -= error * row[j];
        Store(later, x + j * kLanes);
      }
    }
  }
  PackRows<T>(scales, codes, args.rows, args.out, args.stride);
}

// The same source for each instruction set, all with the same results. A float type, which has no scales to
// choose, brings an Encode of its own.
#define PYGROK_CODEC_ISA(Name, ...)                                                                   \
  namespace Name {                                                                                    \
  struct Isa {                                                                                        \
    template <class T>                                                                                \
    [[gnu::noinline]] __VA_ARGS__ static void Choose(const float* x, const float* w,                  \
                                                     typename T::Scales& s) {                         \
      T::Choose(x, w, s);                                                                             \
    }                                                                                                 \
    template <class T>                                                                                \
    [[gnu::noinline]] __VA_ARGS__ static void Refit(size_t sub_block, const float* x, const float* w, \
                                                    typename T::Scales& s) {                          \
      T::Refit(sub_block, x, w, s);                                                                   \
    }                                                                                                 \
  };                                                                                                  \
  template <class T>                                                                                  \
  __VA_ARGS__ void Encode(const EncodeArgs& args) {                                                   \
    if constexpr (T::kBlock == 1) {                                                                   \
      T::Encode(args);                                                                                \
    } else {                                                                                          \
      EncodeBlocks<T, Isa>(args);                                                                     \
    }                                                                                                 \
  }                                                                                                   \
  template <class T>                                                                                  \
  __VA_ARGS__ void Compensate(const CompensateArgs& args) {                                           \
    CompensateBlock<T, Isa>(args);                                                                    \
  }                                                                                                   \
  template <class T>                                                                                  \
  constexpr Codec CodecFor() {                                                                        \
    if constexpr (T::kBlock == 1) {                                                                   \
      return {T::kType, T::kMaxAbs, T::kNeedsImportance, Encode<T>, nullptr};                         \
    } else {                                                                                          \
      return {T::kType, T::kMaxAbs, T::kNeedsImportance, Encode<T>, Compensate<T>};                   \
    }                                                                                                 \
  }                                                                                                   \
  template <class... T>                                                                               \
  constexpr Codec kCodecs[] = {CodecFor<T>()...};                                                     \
  }

PYGROK_CODEC_ISA(baseline)
#if defined(__x86_64__)
PYGROK_CODEC_ISA(avx2, PYGROK_AVX2)
PYGROK_CODEC_ISA(avx512, PYGROK_AVX512)
#endif

// The codecs of some block types, compiled for `isa`.
template <class... T>
std::span<const Codec> CodecsFor(CodecIsa isa) {
#if defined(__x86_64__)
  if (isa == CodecIsa::kAvx512) return avx512::kCodecs<T...>;
  if (isa == CodecIsa::kAvx2) return avx2::kCodecs<T...>;
#else
  static_cast<void>(isa);
#endif
  return baseline::kCodecs<T...>;
}

}  // namespace
}  // namespace pygrok
