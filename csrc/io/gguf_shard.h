// One GGUF file of a set, parsed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "io/gguf.h"

namespace pygrok {

struct GgufShard {
  uint32_t version;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order, pointing into `file`
};

// Checks all that can be checked without reading tensor data. `index` becomes the tensors' `shard`.
// Throws FormatError.
GgufShard ParseGgufShard(const MappedFile& file, size_t index);

}  // namespace pygrok
