// One or two codewords whose signs belong together, under a given scale.
#pragma once

#include "quantize/codec_codebook_search.inl.h"
#include "quantize/isa.inl.h"

namespace pygrok {
namespace {

// kEvenSigns: a file holds all signs of the group but one, and the number of negative values is even. Where
// it is odd for the values as they are, one takes the wrong sign: the codewords are chosen with that in mind.
template <const auto& kBook, size_t kWords, bool kEvenSigns, size_t kWidth>
class CodebookGroup {
 public:
  using F32 = typename Part<kWidth>::F32;
  using I32 = typename Part<kWidth>::I32;
  using U32 = typename Part<kWidth>::U32;
  static constexpr size_t kDim = kBook.kDim;
  static constexpr size_t kGroup = kDim * kWords;
  static constexpr size_t kWordsOfGroup = kWords;
  static_assert(kWords == 1 || kWords == 2);

  // x, w: [kGroup] values and weights, kLanes apart; inverse: of the scale.
  PYGROK_LANES void Set(const float* x, const float* w, const F32& inverse) {
    U32 parity = {};
    for (size_t i = 0; i < kGroup; ++i) {
      F32 v;
      std::memcpy(&v, x + i * kLanes, sizeof(v));
      std::memcpy(&w_[i], w + i * kLanes, sizeof(v));
      signs_[i] = (U32)v & kSignBit;
      parity ^= signs_[i];
      u_[i] = (F32)((U32)v ^ signs_[i]) * inverse;
    }
    odd_ = kEvenSigns ? (I32)parity < 0 : I32{};
    for (size_t n = 0; n < kWords; ++n) errors_[n].Set(u_ + n * kDim, w_ + n * kDim);
  }

  // The least sum of w * (x - q)^2 / scale^2.
  PYGROK_LANES void LeastError(F32& error) const {
    F32 right[kWords];
    F32 flipped[kWords];
    for (size_t n = 0; n < kWords; ++n) errors_[n].Least(right[n], flipped[n]);
    if constexpr (kWords == 1) {
      error = odd_ ? flipped[0] : right[0];
    } else {
      Lesser::Join(flipped[0] + right[1], right[0] + flipped[1], error);
      error = odd_ ? error : right[0] + right[1];
    }
  }

  // The codewords' indices [kWords], and q / scale [kGroup].
  PYGROK_LANES void Best(I32* index, F32* q) const {
    I32 flip[kWords] = {odd_};
    if constexpr (kWords == 2) {
      F32 right[2];
      F32 flipped[2];
      for (size_t n = 0; n < 2; ++n) errors_[n].Least(right[n], flipped[n]);
      const I32 second = right[0] + flipped[1] < flipped[0] + right[1];
      flip[0] = odd_ & ~second;
      flip[1] = odd_ & second;
    }
    for (size_t n = 0; n < kWords; ++n) {
      errors_[n].Find(flip[n], index[n]);
      int32_t found[kWidth];
      std::memcpy(found, &index[n], sizeof(found));
      alignas(64) float magnitudes[kDim][kWidth];
      for (size_t r = 0; r < kWidth; ++r) {
        const float* const word = kBook.words[found[r]];
        for (size_t j = 0; j < kDim; ++j) magnitudes[j][r] = word[j];
      }
      F32 cheapest;
      SetInfinite(cheapest);
      for (size_t j = 0; j < kDim; ++j) {
        const size_t i = n * kDim + j;
        std::memcpy(&q[i], magnitudes[j], sizeof(q[i]));
        TakeLess(w_[i] * u_[i] * q[i], cheapest);
      }
      I32 left = flip[n];
      for (size_t j = 0; j < kDim; ++j) {
        const size_t i = n * kDim + j;
        const I32 turn = left & (w_[i] * u_[i] * q[i] <= cheapest);
        left &= ~turn;
        q[i] = (F32)((U32)q[i] | (signs_[i] ^ ((U32)turn & kSignBit)));
      }
    }
  }

 private:
  static constexpr uint32_t kSignBit = 0x80000000u;

  CodewordErrors<kBook, kEvenSigns, kWidth> errors_[kWords];
  F32 u_[kGroup];  // magnitudes / scale
  F32 w_[kGroup];
  U32 signs_[kGroup];
  I32 odd_;
};

template <class Group, size_t kWidth>
PYGROK_LANES void LeastErrorBody(const float* x, const float* w, size_t groups, const F32x& inverse,
                                 F32x& error) {
  using F32 = typename Group::F32;
  for (size_t lane = 0; lane < kLanes; lane += kWidth) {
    F32 part;
    std::memcpy(&part, reinterpret_cast<const float*>(&inverse) + lane, sizeof(part));
    F32 sum = {};
    for (size_t g = 0; g < groups; ++g) {
      const size_t at = g * Group::kGroup * kLanes + lane;
      Group group;
      F32 least;
      group.Set(x + at, w + at, part);
      group.LeastError(least);
      sum += least;
    }
    std::memcpy(reinterpret_cast<float*>(&error) + lane, &sum, sizeof(sum));
  }
}

template <class Group, size_t kWidth>
PYGROK_LANES void BestBody(const float* x, const float* w, const F32x& inverse, I32x* index, F32x* q) {
  for (size_t lane = 0; lane < kLanes; lane += kWidth) {
    typename Group::F32 part;
    std::memcpy(&part, reinterpret_cast<const float*>(&inverse) + lane, sizeof(part));
    Group group;
    typename Group::I32 part_index[Group::kWordsOfGroup];
    typename Group::F32 part_q[Group::kGroup];
    group.Set(x + lane, w + lane, part);
    group.Best(part_index, part_q);
    for (size_t n = 0; n < Group::kWordsOfGroup; ++n) {
      std::memcpy(reinterpret_cast<int32_t*>(index + n) + lane, &part_index[n], sizeof(part_index[n]));
    }
    for (size_t i = 0; i < Group::kGroup; ++i) {
      std::memcpy(reinterpret_cast<float*>(q + i) + lane, &part_q[i], sizeof(part_q[i]));
    }
  }
}

// The two searches as functions of their own, once for each instruction set: inlined wherever they are
// called, they would take minutes to compile.
#define PYGROK_CODEBOOK_ISA(Name, kWidth, ...)                                                          \
  struct Name {                                                                                         \
    template <class Layout>                                                                             \
    using Group = CodebookGroup<Layout::kBook, Layout::kWordsOfGroup, Layout::kEvenSigns, kWidth>;      \
    /* Adds up the least errors of groups that follow one another. */                                   \
    template <class Layout>                                                                             \
    __VA_ARGS__ [[gnu::noinline]] static void LeastError(const float* x, const float* w, size_t groups, \
                                                         const F32x& inverse, F32x& error) {            \
      LeastErrorBody<Group<Layout>, kWidth>(x, w, groups, inverse, error);                              \
    }                                                                                                   \
    /* The indices of a group's codewords, and its values / scale. */                                   \
    template <class Layout>                                                                             \
    __VA_ARGS__ [[gnu::noinline]] static void Best(const float* x, const float* w, const F32x& inverse, \
                                                   I32x* index, F32x* q) {                              \
      BestBody<Group<Layout>, kWidth>(x, w, inverse, index, q);                                         \
    }                                                                                                   \
  };

PYGROK_CODEBOOK_ISA(CodebookBaseline, 4)
#if defined(__x86_64__)
PYGROK_CODEBOOK_ISA(CodebookAvx2, 8, PYGROK_AVX2)
PYGROK_CODEBOOK_ISA(CodebookAvx512, 16, PYGROK_AVX512)
#endif

}  // namespace
}  // namespace pygrok
