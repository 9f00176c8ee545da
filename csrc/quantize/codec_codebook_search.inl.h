// Exact search of a codebook for the codeword of least weighted error, for 16 rows at once.
//
// The error of a codeword is that of its first half plus that of its second. There are few different halves
// (81 in IQ2_*, 64 in IQ3_*): with their errors tabulated a codeword costs one addition or one minimum, and
// all of them can be looked at.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/lanes.h"

namespace pygrok {
namespace {

constexpr size_t Power(size_t base, size_t exponent) {
  return exponent == 0 ? 1 : base * Power(base, exponent - 1);
}

// A codebook sorted by first halves. The number of a half-codeword has the levels of its values as digits.
template <size_t kDim_, size_t kLevels_, size_t kWords_>
struct Codebook {
  static constexpr size_t kDim = kDim_;        // values of a codeword
  static constexpr size_t kLevels = kLevels_;  // different magnitudes
  static constexpr size_t kWords = kWords_;
  static constexpr size_t kHalves = Power(kLevels, kDim / 2);

  float levels[kLevels] = {};        // rising
  float words[kWords][kDim] = {};    // magnitudes, by the index that a file holds
  uint16_t begin[kHalves + 1] = {};  // entries begin[h] .. begin[h + 1] have the first half h
  uint8_t second[kWords] = {};       // the second half of an entry
  uint16_t index[kWords] = {};       // its index in a file
};

template <size_t kLevels, size_t kWords, size_t kDim>
constexpr Codebook<kDim, kLevels, kWords> MakeCodebook(const uint8_t (&grid)[kWords][kDim]) {
  Codebook<kDim, kLevels, kWords> book;
  bool used[256] = {};
  for (const auto& word : grid) {
    for (const uint8_t value : word) used[value] = true;
  }
  size_t level_of[256] = {};
  size_t levels = 0;
  for (size_t value = 0; value < 256; ++value) {
    if (!used[value]) continue;
    book.levels[levels] = value;
    level_of[value] = levels++;
  }
  size_t halves[kWords][2] = {};
  size_t counts[book.kHalves] = {};
  for (size_t i = 0; i < kWords; ++i) {
    for (size_t j = 0; j < kDim; ++j) {
      size_t& half = halves[i][j / (kDim / 2)];
      half = half * kLevels + level_of[grid[i][j]];
      book.words[i][j] = grid[i][j];
    }
    ++counts[halves[i][0]];
  }
  size_t next[book.kHalves] = {};
  for (size_t h = 0; h < book.kHalves; ++h) {
    next[h] = book.begin[h];
    book.begin[h + 1] = static_cast<uint16_t>(next[h] + counts[h]);
  }
  for (size_t i = 0; i < kWords; ++i) {
    const size_t entry = next[halves[i][0]]++;
    book.second[entry] = static_cast<uint8_t>(halves[i][1]);
    book.index[entry] = static_cast<uint16_t>(i);
  }
  return book;
}

// As many lanes as an instruction set has in a register. The wider vectors of lanes.h would do, but GCC takes
// their comparisons apart into single lanes where the hardware lacks them.
template <size_t kWidth>
struct Part;
#define PYGROK_PART(kWidth)                                        \
  template <>                                                      \
  struct Part<kWidth> {                                            \
    using F32 = float __attribute__((vector_size(4 * kWidth)));    \
    using I32 = int32_t __attribute__((vector_size(4 * kWidth)));  \
    using U32 = uint32_t __attribute__((vector_size(4 * kWidth))); \
    static_assert(sizeof(F32) == 4 * kWidth);                      \
  };
PYGROK_PART(4)  // macros, since GCC ignores a vector_size that depends on a template's parameter
PYGROK_PART(8)
PYGROK_PART(16)
#undef PYGROK_PART

struct Add {
  template <class F>
  PYGROK_LANES static void Join(const F& a, const F& b, F& out) {
    out = a + b;
  }
};
struct Lesser {
  template <class F>
  PYGROK_LANES static void Join(const F& a, const F& b, F& out) {
    out = a < b ? a : b;
  }
};

template <class F>
PYGROK_LANES void TakeLess(const F& x, F& least) {
  least = x < least ? x : least;
}

template <class F>
PYGROK_LANES void SetInfinite(F& x) {
  x = F{} + __builtin_inff();
}

// From a number for every level of every value of a half-codeword to one for every half-codeword.
template <class Operation, class F, size_t kValues, size_t kLevels>
PYGROK_LANES void TabulateHalves(const F (&of_level)[kValues][kLevels], F* table) {
  if constexpr (kValues == 2) {
    for (size_t i = 0; i < kLevels; ++i) {
      for (size_t j = 0; j < kLevels; ++j)
        Operation::Join(of_level[0][i], of_level[1][j], table[i * kLevels + j]);
    }
  } else {
    static_assert(kValues == 4);
    F of_pair[2][kLevels * kLevels];
    for (size_t p = 0; p < 2; ++p) {
      for (size_t i = 0; i < kLevels; ++i) {
        for (size_t j = 0; j < kLevels; ++j) {
          Operation::Join(of_level[2 * p][i], of_level[2 * p + 1][j], of_pair[p][i * kLevels + j]);
        }
      }
    }
    TabulateHalves<Operation>(of_pair, table);
  }
}

// The errors of all codewords of kBook for the values of one codeword. With kFlips also the least that one
// wrong sign adds to each.
template <const auto& kBook, bool kFlips, size_t kWidth>
class CodewordErrors {
 public:
  using F32 = typename Part<kWidth>::F32;
  using I32 = typename Part<kWidth>::I32;

  // u: magnitudes in units of the scale, w: weights, [kDim].
  PYGROK_LANES void Set(const F32* u, const F32* w) {
    SetHalf(u, w, first_, first_flip_);
    SetHalf(u + kHalf, w + kHalf, second_, second_flip_);
    if constexpr (kFlips) {
      for (size_t h = 0; h < kBook.kHalves; ++h) second_flipped_[h] = second_[h] + second_flip_[h];
    }
  }

  // The least error, with all signs right and, if kFlips, with one wrong.
  PYGROK_LANES void Least(F32& right, F32& flipped) const {
    SetInfinite(right);
    flipped = right;
    for (size_t h = 0; h < kBook.kHalves; ++h) {
      const size_t end = kBook.begin[h + 1];
      size_t entry = kBook.begin[h];
      if (entry == end) continue;
      F32 least = second_[kBook.second[entry]];
      if constexpr (kFlips) {
        F32 least_flipped = second_flipped_[kBook.second[entry]];
        while (++entry < end) {
          TakeLess(second_[kBook.second[entry]], least);
          TakeLess(second_flipped_[kBook.second[entry]], least_flipped);
        }
        TakeLess(least + first_flip_[h], least_flipped);
        TakeLess(first_[h] + least_flipped, flipped);
      } else {
        while (++entry < end) TakeLess(second_[kBook.second[entry]], least);
      }
      TakeLess(first_[h] + least, right);
    }
  }

  // The index of the best codeword; of the best with one wrong sign in lanes with `flip`.
  PYGROK_LANES void Find(const I32& flip, I32& index) const {
    F32 least;
    SetInfinite(least);
    index = I32{};
    for (size_t h = 0; h < kBook.kHalves; ++h) {
      for (size_t entry = kBook.begin[h]; entry < kBook.begin[h + 1]; ++entry) {
        const size_t s = kBook.second[entry];
        F32 error = second_[s];
        if constexpr (kFlips) {
          F32 extra;
          Lesser::Join(first_flip_[h], second_flip_[s], extra);
          error += (F32)((I32)extra & flip);
        }
        error += first_[h];
        const I32 better = error < least;
        least = better ? error : least;
        index = better ? I32{} + static_cast<int32_t>(kBook.index[entry]) : index;
      }
    }
  }

 private:
  static constexpr size_t kHalf = kBook.kDim / 2;

  PYGROK_LANES static void SetHalf(const F32* u, const F32* w, F32* errors, F32* flips) {
    F32 of_level[kHalf][kBook.kLevels];
    for (size_t i = 0; i < kHalf; ++i) {
      for (size_t level = 0; level < kBook.kLevels; ++level) {
        const F32 off = u[i] - kBook.levels[level];
        of_level[i][level] = w[i] * (off * off);
      }
    }
    TabulateHalves<Add>(of_level, errors);
    if constexpr (kFlips) {
      for (size_t i = 0; i < kHalf; ++i) {
        const F32 wu = w[i] * u[i] * 4.0f;  // (u + g)^2 - (u - g)^2 = 4 u g
        for (size_t level = 0; level < kBook.kLevels; ++level) of_level[i][level] = wu * kBook.levels[level];
      }
      TabulateHalves<Lesser>(of_level, flips);
    }
  }

  static constexpr size_t kFlipHalves = kFlips ? kBook.kHalves : 1;
  F32 first_[kBook.kHalves];
  F32 second_[kBook.kHalves];
  F32 first_flip_[kFlipHalves];  // what the cheapest wrong sign adds
  F32 second_flip_[kFlipHalves];
  F32 second_flipped_[kFlipHalves];  // second_ + second_flip_
};

}  // namespace
}  // namespace pygrok
