// How the experts' matrices are cut into pieces.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "io/expert_store.h"
#include "io/gguf.h"
#include "model/config.h"
#include "model/weights.h"

namespace pygrok {

struct ExpertLayout {
  StoreLayout store;
  std::vector<std::pair<const std::byte*, PagedRows>> rows;  // of each matrix, by its address; no store yet
  size_t bytes = 0;                                          // of all experts
};

// Pieces of about `target` bytes, at least kRowTile rows each. With `exact` none is larger unless a single
// tile is; otherwise a size near the target is chosen at which slots of one size waste least. A group's
// pieces are those of gate, up and down, in this order.
ExpertLayout MakeExpertLayout(const Gguf& file, const Config& config, const Weights& weights, size_t target,
                              bool exact);

size_t LargestExpert(const Weights& weights);  // in bytes

// All bytes of the files but those of the experts, in pieces, in the order of the files.
std::vector<FileRange> OtherRanges(const Gguf& file, const StoreLayout& experts);

}  // namespace pygrok
