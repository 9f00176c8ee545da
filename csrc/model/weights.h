// The tensors of a Grok-1 model, where the file maps them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "kernels/kernel_table.h"
#include "model/config.h"

namespace pygrok {

class ExpertStore;

// Rows that are in memory only from Acquire to Finish: pieces of `rows` rows each, the last one of fewer.
struct PagedRows {
  ExpertStore* store;
  size_t first_piece;
  size_t rows;
};

// A weight matrix, y = W x: `rows` output features of `columns` input features.
struct Matrix {
  const std::byte* data;
  TensorType type;
  size_t rows;
  size_t columns;
  size_t row_bytes;
  const PagedRows* paged = nullptr;  // if set, products take rows from there and not from `data`
};

struct ExpertWeights {
  Matrix gate;  // [expert_width, embedding], its product gets the gelu
  Matrix up;    // [expert_width, embedding]
  Matrix down;  // [embedding, expert_width]
};

struct LayerWeights {
  const float* attention_norm;         // [embedding] rms_norm
  const float* attention_output_norm;  // [embedding] rms_norm_1
  const float* expert_norm;            // [embedding] rms_norm_2
  const float* output_norm;            // [embedding] rms_norm_3
  Matrix q;                            // [heads * head_size, embedding]
  Matrix k;                            // [kv_heads * head_size, embedding]
  Matrix v;                            // [kv_heads * head_size, embedding]
  Matrix attention_output;             // [embedding, heads * head_size]
  Matrix router;                       // [experts, embedding]
  std::vector<ExpertWeights> experts;  // [experts]
};

struct Weights {
  Matrix embedding;          // [vocab, embedding]
  Matrix output;             // [vocab, embedding], the embedding itself if tied
  const float* output_norm;  // [embedding]
  std::vector<LayerWeights> layers;
};

// Tensors that stand in for those of the same name in a file.
using Replacements = std::map<std::string, GgufTensor, std::less<>>;

// Finds every tensor by name, type and shape; knows the spellings of older files. Throws ModelError with all
// that is missing, misshapen, not runnable by `kernels` or not part of Grok-1 in one message.
Weights FindWeights(const Gguf& file, const Config& config, const KernelTable& kernels,
                    const Replacements& replacements = {});

}  // namespace pygrok
