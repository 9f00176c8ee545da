// Hyperparameters of a Grok-1 shaped model.
#pragma once

#include <cstddef>

#include "io/gguf.h"

namespace pygrok {

struct Config {
  size_t layers;
  size_t embedding;  // width of the residual stream
  size_t vocab;
  size_t context;   // positions the model was made for
  size_t heads;     // query heads
  size_t kv_heads;  // each shared by heads / kv_heads query heads
  size_t head_size;
  size_t experts;
  size_t experts_used;  // routed per token
  size_t expert_width;

  float embedding_multiplier;
  float output_multiplier;
  float attention_multiplier;
  float attention_soft_cap;
  float rms_eps;
  float rope_base;

  size_t q_width() const { return heads * head_size; }
  size_t kv_width() const { return kv_heads * head_size; }
};

// Reads and checks the `grok.*` keys; where older files lack the scales, Grok-1's own apply.
// Throws FormatError (a missing or malformed key), ModelError (not a model this engine computes).
Config ReadConfig(const Gguf& file);

}  // namespace pygrok
