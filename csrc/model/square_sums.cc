#include "model/square_sums.h"

#include <algorithm>
#include <stdexcept>

namespace pygrok {
namespace {

constexpr size_t kLayerInputs = kMatrixInputs - 1;  // all but kOutput
constexpr size_t kColumnChunk = 512;                // 4 KiB of sums: they stay in the first-level cache

size_t ColumnsOf(MatrixInput input, const Config& config) {
  if (input == MatrixInput::kAttentionOutput) return config.q_width();
  return input == MatrixInput::kExpertHidden ? config.expert_width : config.embedding;
}

}  // namespace

SquareSums::SquareSums(const Config& config, bool tied) {
  for (size_t i = 0; i < config.layers * kLayerInputs + 1; ++i) {
    const size_t layer = i / kLayerInputs;
    const auto input =
        layer == config.layers ? MatrixInput::kOutput : static_cast<MatrixInput>(i % kLayerInputs);
    const bool of_experts = input == MatrixInput::kExpert || input == MatrixInput::kExpertHidden;
    const size_t matrices = of_experts ? config.experts : 1;
    const size_t columns = ColumnsOf(input, config);
    entries_.push_back({NamesOf(input, layer, tied), matrices, columns,
                        std::vector<double>(matrices * columns), std::vector<int64_t>(matrices)});
  }
}

void SquareSums::Observe(const Observation& observation, ThreadPool& pool) {
  const std::lock_guard lock(mutex_);
  const size_t index = observation.input == MatrixInput::kOutput
                           ? entries_.size() - 1
                           : observation.layer * kLayerInputs + static_cast<size_t>(observation.input);
  if (index >= entries_.size() || entries_[index].columns != observation.k ||
      entries_[index].matrices <= observation.expert) {
    throw std::invalid_argument("the sums were made for a model of other dimensions");
  }
  Entry& entry = entries_[index];
  double* sums = entry.squares.data() + observation.expert * observation.k;
  pool.Run((observation.k + kColumnChunk - 1) / kColumnChunk, [&](size_t chunk, size_t) {
    const size_t begin = chunk * kColumnChunk;
    const size_t end = std::min(observation.k, begin + kColumnChunk);
    for (size_t i = 0; i < observation.n; ++i) {
      const float* x = observation.Row(i);
      for (size_t j = begin; j < end; ++j) sums[j] += static_cast<double>(x[j]) * x[j];
    }
  });
  entry.counts[observation.expert] += static_cast<int64_t>(observation.n);
}

std::vector<SquareSums::Entry> SquareSums::entries() const {
  const std::lock_guard lock(mutex_);
  return entries_;
}

}  // namespace pygrok
