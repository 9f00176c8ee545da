#include "model/expert_layout.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

#include "kernels/kernel_table.h"
#include "util/aligned.h"

namespace pygrok {
namespace {

constexpr size_t kOtherBytes = size_t{8} << 20;  // of a piece that is no expert's

std::array<const Matrix*, 3> MatricesOf(const ExpertWeights& expert) {
  return {&expert.gate, &expert.up, &expert.down};
}

size_t PieceRows(const Matrix& m, size_t target) {
  const size_t pieces = std::max<size_t>(1, (m.rows * m.row_bytes + target - 1) / target);
  return RoundUp((m.rows + pieces - 1) / pieces, kRowTile);
}

size_t PieceRowsWithin(const Matrix& m, size_t most) {
  return std::max<size_t>(1, most / m.row_bytes / kRowTile) * kRowTile;
}

// Bytes of slots for every byte of experts.
double Cost(const std::vector<const Matrix*>& matrices, size_t target) {
  size_t slot = 0;
  size_t pieces = 0;
  size_t bytes = 0;
  for (const Matrix* m : matrices) {
    const size_t rows = std::min(PieceRows(*m, target), m->rows);
    slot = std::max(slot, RoundUp(rows * m->row_bytes, PieceReader::kAlignment) + PieceReader::kAlignment);
    pieces += (m->rows + rows - 1) / rows;
    bytes += m->rows * m->row_bytes;
  }
  return static_cast<double>(pieces) * static_cast<double>(slot) / static_cast<double>(bytes);
}

// One matrix of each size: enough to judge a size of pieces.
std::vector<const Matrix*> Kinds(const Weights& weights) {
  std::vector<const Matrix*> kinds;
  for (const LayerWeights& layer : weights.layers) {
    for (const Matrix* m : MatricesOf(layer.experts.front())) {
      const bool known = std::any_of(kinds.begin(), kinds.end(), [m](const Matrix* k) {
        return k->rows == m->rows && k->row_bytes == m->row_bytes;
      });
      if (!known) kinds.push_back(m);
    }
  }
  return kinds;
}

FileRange RangeOf(const Gguf& file, const std::byte* data, size_t bytes) {
  for (size_t f = 0; f < file.files().size(); ++f) {
    const MappedFile& mapped = file.files()[f];
    if (data >= mapped.data() && data < mapped.data() + mapped.size()) {
      return {f, static_cast<size_t>(data - mapped.data()), bytes};
    }
  }
  throw std::logic_error("a matrix lies outside its file");  // FindWeights takes them from there only
}

}  // namespace

ExpertLayout MakeExpertLayout(const Gguf& file, const Config& config, const Weights& weights, size_t target,
                              bool exact) {
  if (!exact) {
    const std::vector<const Matrix*> kinds = Kinds(weights);
    size_t best = target;
    for (size_t i = 12; i <= 28; ++i) {
      const size_t candidate = std::max<size_t>(1, target / 20 * i);
      if (Cost(kinds, candidate) < Cost(kinds, best)) best = candidate;
    }
    target = best;
  }
  ExpertLayout layout;
  layout.store.layers = config.layers;
  layout.store.experts = config.experts;
  layout.store.group_first.push_back(0);
  for (const LayerWeights& layer : weights.layers) {
    for (const ExpertWeights& expert : layer.experts) {
      for (const Matrix* m : MatricesOf(expert)) {
        const size_t rows = exact ? PieceRowsWithin(*m, target) : PieceRows(*m, target);
        layout.rows.push_back({m->data, {nullptr, layout.store.pieces.size(), rows}});
        for (size_t first = 0; first < m->rows; first += rows) {
          const size_t count = std::min(rows, m->rows - first);
          layout.store.pieces.push_back(
              {RangeOf(file, m->data + first * m->row_bytes, count * m->row_bytes), count});
        }
        layout.bytes += m->rows * m->row_bytes;
      }
      layout.store.group_first.push_back(layout.store.pieces.size());
    }
  }
  std::sort(layout.rows.begin(), layout.rows.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return layout;
}

size_t LargestExpert(const Weights& weights) {
  size_t largest = 0;
  for (const LayerWeights& layer : weights.layers) {
    for (const ExpertWeights& expert : layer.experts) {
      size_t bytes = 0;
      for (const Matrix* m : MatricesOf(expert)) bytes += m->rows * m->row_bytes;
      largest = std::max(largest, bytes);
    }
  }
  return largest;
}

std::vector<FileRange> OtherRanges(const Gguf& file, const StoreLayout& experts) {
  std::vector<FileRange> taken;
  for (const StorePiece& piece : experts.pieces) taken.push_back(piece.range);
  for (size_t f = 0; f < file.files().size(); ++f) taken.push_back({f, file.files()[f].size(), 0});
  std::sort(taken.begin(), taken.end(), [](const FileRange& a, const FileRange& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  std::vector<FileRange> others;
  size_t f = 0;
  size_t at = 0;
  for (const FileRange& range : taken) {
    if (range.file != f) at = 0;
    f = range.file;
    for (; at < range.offset; at += std::min(kOtherBytes, range.offset - at)) {
      others.push_back({f, at, std::min(kOtherBytes, range.offset - at)});
    }
    at = range.offset + range.bytes;
  }
  return others;
}

}  // namespace pygrok
