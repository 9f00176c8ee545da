// Sums of squared activations per input channel: what an importance matrix is made of.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/observer.h"

namespace pygrok {

// Adds in float64, rows one after another: the sums depend neither on the number of threads nor on how tokens
// are cut into batches. May be read while a forward adds to it.
class SquareSums : public InputObserver {
 public:
  // tied: the embedding is the output matrix.
  SquareSums(const Config& config, bool tied);

  struct Entry {
    std::vector<std::string> names;  // of the tensors that share this input
    size_t matrices;                 // experts, or 1
    size_t columns;
    std::vector<double> squares;  // [matrices][columns]
    std::vector<int64_t> counts;  // [matrices] rows seen
  };

  // Throws std::invalid_argument for a model of other dimensions.
  void Observe(const Observation& observation, ThreadPool& pool) override;

  std::vector<Entry> entries() const;  // a copy, in the order of computation

 private:
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;  // layer by layer, kOutput last
};

}  // namespace pygrok
