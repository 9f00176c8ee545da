// The super-blocks of IQ2_* and IQ3_*: 256 values, an f16 scale d, 4 bits k for every sub-block, codewords of
// magnitudes and their signs: value = +-d * (2 k + 1) * kUnit * magnitude.
#pragma once

#include "quantize/block_codec.inl.h"
#include "quantize/codec_codebook_group.inl.h"
#include "quantize/pack.inl.h"

namespace pygrok {
namespace {

// All that these types share. A layout says what differs:
//
//   struct Layout {
//     static constexpr TensorType kType;
//     static constexpr const auto& kBook;
//     static constexpr size_t kWordsOfGroup;  // codewords whose signs are stored together
//     static constexpr bool kEvenSigns;       // of a group, see CodebookGroup
//     static constexpr size_t kSubBlock;
//     static constexpr float kUnit;
//     static constexpr size_t kBlockBytes;
//     // Writes what follows d in a block. codes: one a group, k: one a sub-block.
//     static void Write(const uint32_t* codes, const uint8_t* k, uint8_t* out);
//   };
template <class Layout, class Isa>
struct CodebookBlock {
  using Code = uint32_t;  // codewords' indices in bits 0 to 11 and 12 to 23, signs from bit 24
  static constexpr TensorType kType = Layout::kType;
  static constexpr bool kNeedsImportance = true;
  static constexpr size_t kBlock = 256;
  static constexpr size_t kGroup = Layout::kBook.kDim * Layout::kWordsOfGroup;
  static constexpr size_t kSubBlock = Layout::kSubBlock;
  static constexpr size_t kBlockBytes = Layout::kBlockBytes;
  static constexpr size_t kSubBlocks = kBlock / kSubBlock;
  static constexpr float kTop = Layout::kBook.levels[Layout::kBook.kLevels - 1];
  static constexpr float kMaxStep = 31.0f;  // 2 k + 1
  static constexpr float kMaxAbs = kHalfMax * kMaxStep * Layout::kUnit * kTop;
  static_assert(Layout::kSubBlock % kGroup == 0);

  struct Scales {
    U32x bits;              // of d
    F32x unit;              // d * kUnit
    F32x step[kSubBlocks];  // 2 k + 1
  };

  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const Code* codes, uint8_t* block) {
    uint8_t k[kSubBlocks];
    for (size_t b = 0; b < kSubBlocks; ++b) k[b] = static_cast<uint8_t>(s.step[b][lane] * 0.5f);
    PutHalf(s.bits, lane, block);
    Layout::Write(codes, k, block + 2);
  }

  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) {
    F32x top;
    F32x sub_top[kSubBlocks];
    Tops(x, sub_top, top);
    const I32x nothing = top < kTiniest;
    top = nothing ? F32x{} + 1.0f : top;

    // From here on scales are relative to `top`, which keeps their squares in range.
    F32x best[kSubBlocks];
    F32x curvature[kSubBlocks];
    for (size_t b = 0; b < kSubBlocks; ++b) {
      const size_t at = b * kSubBlock * kLanes;
      OwnScale(x + at, w + at, top, sub_top[b] / top, best[b], curvature[b]);
    }
    F32x unit;
    ChooseUnit(best, curvature, top, unit);

    // Fit steps to the unit, the unit to the codes of these steps, and steps again.
    F32x least;
    Fill(least, __builtin_inff());
    s.unit = unit;
    for (size_t round = 0; round < 2; ++round) {
      if (round > 0) FitUnit(x, w, top, s, unit);
      F32x total = {};
      F32x step[kSubBlocks];
      for (size_t b = 0; b < kSubBlocks; ++b) {
        const size_t at = b * kSubBlock * kLanes;
        F32x error;
        NearestStep(best[b] / unit, step[b]);
        BestStep(x + at, w + at, top, unit, step[b], error);
        total += error;
      }
      I32x better;
      Less(total, least, better);
      Select(better, total, least);
      Select(better, unit, s.unit);
      for (size_t b = 0; b < kSubBlocks; ++b) Select(better, step[b], s.step[b]);
    }

    F32x energy;
    Energy(x, w, top, energy);
    const I32x drop = nothing | (energy <= least);  // what is small beside the smallest d is best zero
    ToHalf(drop ? F32x{} : s.unit * top / Layout::kUnit, s.bits);
    FromHalf(s.bits, s.unit);
    s.unit *= Layout::kUnit;
    for (size_t b = 0; b < kSubBlocks; ++b) s.step[b] = drop ? F32x{} + 1.0f : s.step[b];
  }

  PYGROK_LANES static void Refit(size_t sub_block, const float* x, const float* w, Scales& s) {
    F32x error;
    const F32x unit = s.unit == 0.0f ? F32x{} + 1.0f : s.unit;
    BestStep(x, w, F32x{} + 1.0f, unit, s.step[sub_block], error);
  }

  PYGROK_LANES static void Round(const Scales& s, size_t group, const float* x, const float* w, Code* code,
                                 F32x* y) {
    const F32x scale = s.unit * s.step[group * kGroup / kSubBlock];
    I32x index[Layout::kWordsOfGroup];
    Isa::template Best<Layout>(x, w, scale == 0.0f ? F32x{} : 1.0f / scale, index, y);
    U32x bits = {};
    for (size_t i = 0; i < kGroup; ++i) {
      bits |= (U32x)y[i] >> 31 << (24 + i);
      y[i] *= scale;
    }
    for (size_t n = 0; n < Layout::kWordsOfGroup; ++n) bits |= (U32x)index[n] << (12 * n);
    std::memcpy(code, &bits, sizeof(bits));
  }

 private:
  static constexpr float kTiniest = 0x1p-40f;  // less than any d can tell from zero
  static constexpr float kSmallestHalf = 0x1p-24f;

  PYGROK_LANES static void Tops(const float* x, F32x* sub_top, F32x& top) {
    top = F32x{};
    for (size_t b = 0; b < kSubBlocks; ++b) {
      sub_top[b] = F32x{};
      for (size_t i = b * kSubBlock; i < (b + 1) * kSubBlock; ++i) {
        F32x v;
        Load(x + i * kLanes, v);
        Magnitude(v, v);
        AtLeast(v, sub_top[b]);
      }
      AtLeast(sub_top[b], top);
    }
  }

  PYGROK_LANES static void Energy(const float* x, const float* w, const F32x& top, F32x& energy) {
    energy = F32x{};
    ForEach<kBlock>(x, w, [&](const F32x& v, const F32x& weight) PYGROK_LANES_LAMBDA {
      const F32x relative = v / top;
      energy += weight * (relative * relative);
    });
  }

  // The least error of a sub-block under a scale.
  PYGROK_LANES static void Error(const float* x, const float* w, const F32x& top, const F32x& scale,
                                 F32x& error) {
    Isa::template LeastError<Layout>(x, w, kSubBlock / kGroup, 1.0f / (scale * top), error);
    error *= scale * scale;
  }

  // With q = factor * the best signed magnitudes under a scale, adds sum w x q and sum w q q: their ratio is
  // the best unit for these q.
  PYGROK_LANES static void AddSums(const float* x, const float* w, const F32x& top, const F32x& scale,
                                   const F32x& factor, F32x& xq, F32x& qq) {
    const F32x inverse = 1.0f / (scale * top);
    for (size_t first = 0; first < kSubBlock; first += kGroup) {
      I32x index[Layout::kWordsOfGroup];
      F32x q[kGroup];
      Isa::template Best<Layout>(x + first * kLanes, w + first * kLanes, inverse, index, q);
      for (size_t i = 0; i < kGroup; ++i) {
        F32x v;
        F32x weight;
        Load(x + (first + i) * kLanes, v);
        Load(w + (first + i) * kLanes, weight);
        q[i] *= factor;
        weight *= q[i];
        xq += weight * (v / top);
        qq += weight * q[i];
      }
    }
  }

  // The scale that suits a sub-block best; near it the error is least + curvature * (scale - best)^2.
  PYGROK_LANES static void OwnScale(const float* x, const float* w, const F32x& top, const F32x& sub_top,
                                    F32x& best, F32x& curvature) {
    // The largest value becomes the largest magnitude under 1: more leaves it a smaller one, less clips it.
    constexpr float kFirstTrial = 1.8f;
    constexpr bool kFlat = Layout::kBook.kLevels <= 3;  // few levels: the error varies little with the scale
    constexpr size_t kCoarse = kFlat ? 8 : 9;
    constexpr float kRatio = kFlat ? 0.82f : 0.84f;
    constexpr float kFine[] = {0.945f, 1.058f, 0.97f, 1.03f};  // of the best coarse trial
    constexpr size_t kTrials = kCoarse + (kFlat ? 0 : sizeof(kFine) / sizeof(kFine[0]));
    F32x base = sub_top;
    AtLeast(F32x{} + 1e-5f, base);
    base /= kTop;
    float factor = kFirstTrial;
    F32x least;
    Fill(least, __builtin_inff());
    best = base;
    for (size_t t = 0; t < kTrials; ++t) {
      if (t >= kCoarse) {
        if (t == kCoarse) base = best;
        factor = kFine[t - kCoarse];
      }
      const F32x trial = base * factor;
      factor *= kRatio;
      F32x error;
      Error(x, w, top, trial, error);
      I32x better;
      Less(error, least, better);
      Select(better, error, least);
      Select(better, trial, best);
    }
    F32x xq = {};
    curvature = F32x{};
    AddSums(x, w, top, best, F32x{} + 1.0f, xq, curvature);
    best = xq > 0.0f ? xq / curvature : best;
  }

  // The unit whose steps come nearest to the sub-blocks' own scales.
  PYGROK_LANES static void ChooseUnit(const F32x* best, const F32x* curvature, const F32x& top, F32x& unit) {
    constexpr size_t kTrials = 32;
    constexpr float kFirstTrial = 1.08f;
    constexpr float kDifference = 0.0125f;
    F32x largest = best[0];
    for (size_t b = 1; b < kSubBlocks; ++b) AtLeast(best[b], largest);
    F32x least;
    Fill(least, __builtin_inff());
    unit = largest / kMaxStep;
    for (size_t t = 0; t < kTrials; ++t) {
      F32x trial = largest * ((kFirstTrial - kDifference * static_cast<float>(t)) / kMaxStep);
      ToStored(top, trial);
      F32x error = {};
      for (size_t b = 0; b < kSubBlocks; ++b) {
        F32x step;
        NearestStep(best[b] / trial, step);
        const F32x off = trial * step - best[b];
        error += curvature[b] * (off * off);
      }
      I32x better;
      Less(error, least, better);
      Select(better, error, least);
      Select(better, trial, unit);
    }
  }

  // The best unit for the codes that go with s.
  PYGROK_LANES static void FitUnit(const float* x, const float* w, const F32x& top, const Scales& s,
                                   F32x& unit) {
    F32x xq = {};
    F32x qq = {};
    for (size_t b = 0; b < kSubBlocks; ++b) {
      const size_t at = b * kSubBlock * kLanes;
      AddSums(x + at, w + at, top, s.unit * s.step[b], s.step[b], xq, qq);
    }
    unit = xq / qq;
    ToStored(top, unit);
  }

  PYGROK_LANES static void NearestStep(const F32x& ratio, F32x& step) {
    F32x bounded = ratio;
    Clamp(bounded, 1.0f, kMaxStep);
    F32x k = bounded * 0.5f - 0.5f;
    pygrok::Round(k);
    step = k * 2.0f + 1.0f;
  }

  // Moves a step to its neighbour if that is better.
  PYGROK_LANES static void BestStep(const float* x, const float* w, const F32x& top, const F32x& unit,
                                    F32x& step, F32x& least) {
    constexpr float kOffsets[] = {0.0f, -2.0f, 2.0f};
    Fill(least, __builtin_inff());
    Clamp(step, 3.0f, kMaxStep - 2.0f);
    const F32x middle = step;
    for (const float offset : kOffsets) {
      const F32x trial = middle + offset;
      F32x error;
      Error(x, w, top, unit * trial, error);
      I32x better;
      Less(error, least, better);
      Select(better, error, least);
      Select(better, trial, step);
    }
  }

  // A unit, relative to top, as a file can hold it.
  PYGROK_LANES static void ToStored(const F32x& top, F32x& unit) {
    F32x d = unit * top / Layout::kUnit;
    Clamp(d, kSmallestHalf, kHalfMax);
    U32x bits;
    ToHalf(d, bits);
    FromHalf(bits, d);
    unit = d * Layout::kUnit / top;
  }
};

}  // namespace
}  // namespace pygrok
