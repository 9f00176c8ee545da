#include "quantize/compensate.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "quantize/isa.inl.h"
#include "quantize/lanes.h"
#include "util/aligned.h"
#include "util/error.h"

namespace pygrok {
namespace {

// Rows are worked off in panels, so that U is read once for several groups of rows. Errors reach the rest of
// their 256 columns at once and all later columns when those are done.
constexpr size_t kPanelGroups = 8;
constexpr size_t kLazy = 256;
constexpr size_t kColumns = 4;   // whose values stand in registers
constexpr size_t kStripe = 128;  // columns of U that all groups use before the next: with 256 rows 128 KiB

struct FeedbackArgs {
  const float* error;  // [n][kLanes], of n columns
  const float* factor;
  size_t factor_stride;
  size_t n;
  float* x;  // [columns][kLanes], later ones
  size_t columns;
};

// x_j -= sum_i e_i * U_ij
PYGROK_LANES void Feedback(const FeedbackArgs& args) {
  size_t j = 0;
  for (; j + kColumns <= args.columns; j += kColumns) {
    F32x x[kColumns];
    for (size_t c = 0; c < kColumns; ++c) Load(args.x + (j + c) * kLanes, x[c]);
    for (size_t i = 0; i < args.n; ++i) {
      F32x error;
      Load(args.error + i * kLanes, error);
      const float* const row = args.factor + i * args.factor_stride + j;
      for (size_t c = 0; c < kColumns; ++c) x[c] -= error * row[c];
    }
    for (size_t c = 0; c < kColumns; ++c) Store(x[c], args.x + (j + c) * kLanes);
  }
  for (; j < args.columns; ++j) {
    F32x x;
    Load(args.x + j * kLanes, x);
    for (size_t i = 0; i < args.n; ++i) {
      F32x error;
      Load(args.error + i * kLanes, error);
      x -= error * args.factor[i * args.factor_stride + j];
    }
    Store(x, args.x + j * kLanes);
  }
}

// Some groups of rows within one span, and where their parts lie.
class Panel {
 public:
  Panel(const CompensateMatrix& matrix, const Codec& codec, std::byte* out)
      : matrix_(matrix),
        codec_(codec),
        out_(out),
        feedback_(ForEachIsa<Feedback>::Best()),
        x_(kPanelGroups * matrix.span * kLanes),
        error_(kPanelGroups * kLazy * kLanes) {}

  void Run(size_t first_row, size_t rows, size_t span_index) {
    const size_t span = matrix_.span;
    const size_t groups = (rows + kLanes - 1) / kLanes;
    const float* const factor = matrix_.factor + span_index * span * span;
    Interleave(first_row, rows, span_index * span);
    for (size_t begin = 0; begin < span; begin += kLazy) {
      const size_t end = std::min(begin + kLazy, span);
      for (size_t group = 0; group < groups; ++group) {
        const size_t row = first_row + group * kLanes;
        const size_t count = std::min(kLanes, rows - group * kLanes);
        RunGroup(group, row, count, span_index * span, begin, end, factor);
      }
      for (size_t stripe = end; stripe < span; stripe += kStripe) {
        for (size_t group = 0; group < groups; ++group) {
          feedback_({.error = error_.data() + group * kLazy * kLanes,
                     .factor = factor + begin * span + stripe,
                     .factor_stride = span,
                     .n = end - begin,
                     .x = x_.data() + (group * span + stripe) * kLanes,
                     .columns = std::min(kStripe, span - stripe)});
        }
      }
    }
  }

 private:
  void Interleave(size_t first_row, size_t rows, size_t first_column) {
    const size_t span = matrix_.span;
    for (size_t r = 0; r < RoundUp(rows, kLanes); ++r) {
      float* const to = x_.data() + r / kLanes * span * kLanes + r % kLanes;
      const float* const from = matrix_.x + (first_row + r) * matrix_.columns + first_column;
      for (size_t c = 0; c < span; ++c) to[c * kLanes] = r < rows ? from[c] : 0.0f;
    }
  }

  // Columns [begin, end) of the span, block by block.
  void RunGroup(size_t group, size_t row, size_t rows, size_t first_column, size_t begin, size_t end,
                const float* factor) {
    const size_t span = matrix_.span;
    const size_t block = InfoOf(codec_.type).block_size;
    const size_t row_bytes = RowBytes(codec_.type, matrix_.columns);
    float* const x = x_.data() + group * span * kLanes;
    float* const errors = error_.data() + group * kLazy * kLanes;
    for (size_t column = begin; column < end; column += block) {
      if (!AllWithin(x + column * kLanes, block * kLanes, codec_.max_abs)) ThrowDoesNotFit(codec_);
      float* const error = errors + (column - begin) * kLanes;
      codec_.compensate({.x = x + column * kLanes,
                         .factor = factor + column * span + column,
                         .factor_stride = span,
                         .rows = rows,
                         .out = out_ + row * row_bytes + RowBytes(codec_.type, first_column + column),
                         .stride = row_bytes,
                         .error = error});
      const size_t next = column + block;
      feedback_({.error = error,
                 .factor = factor + column * span + next,
                 .factor_stride = span,
                 .n = block,
                 .x = x + next * kLanes,
                 .columns = end - next});
    }
  }

  const CompensateMatrix& matrix_;
  const Codec& codec_;
  std::byte* const out_;
  void (*const feedback_)(const FeedbackArgs& args);
  AlignedBuffer<float> x_;      // [group][span][kLanes]
  AlignedBuffer<float> error_;  // [group][kLazy][kLanes]
};

void Check(const CompensateMatrix& matrix, const Codec& codec) {
  const size_t block = InfoOf(codec.type).block_size;
  if (codec.compensate == nullptr) {
    throw ModelError(std::string("rounding to ") + InfoOf(codec.type).name +
                     " has no blocks whose errors could be compensated");
  }
  if (matrix.span == 0 || matrix.columns % matrix.span != 0 || matrix.span % block != 0) {
    throw std::invalid_argument(std::to_string(matrix.columns) + " columns in spans of " +
                                std::to_string(matrix.span) +
                                ", which must divide them and be a multiple of " + std::to_string(block));
  }
  for (size_t i = 0; i < matrix.columns; ++i) {
    const float diagonal = matrix.factor[i * matrix.span + i % matrix.span];
    if (!(diagonal > 0) || !std::isfinite(diagonal)) {
      throw std::invalid_argument("the factor's diagonal must be above 0 and finite");
    }
  }
}

}  // namespace

void CompensateRows(ThreadPool& pool, const CompensateMatrix& matrix, const Codec& codec, std::byte* out) {
  Check(matrix, codec);
  if (matrix.rows == 0) return;
  // Small matrices are split finer, so that every thread has work.
  const auto threads = static_cast<size_t>(pool.size());
  const size_t step = std::min(kPanelGroups * kLanes, RoundUp((matrix.rows + threads - 1) / threads, kLanes));
  const size_t spans = matrix.columns / matrix.span;
  std::vector<Panel> panels;
  panels.reserve(threads);
  for (size_t i = 0; i < threads; ++i) panels.emplace_back(matrix, codec, out);
  pool.Run((matrix.rows + step - 1) / step * spans, [&](size_t task, size_t worker) {
    const size_t first = task / spans * step;
    panels[worker].Run(first, std::min(step, matrix.rows - first), task % spans);
  });
}

}  // namespace pygrok
