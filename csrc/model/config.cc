#include "model/config.h"

#include <cmath>
#include <string>

#include "io/text.h"
#include "kernels/kernel_table.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr char kPrefix[] = "grok.";

// Far beyond any Grok, small enough that no product of two overflows.
constexpr size_t kMaxDimension = size_t{1} << 24;

size_t CheckDimension(const Gguf& file, const std::string& key, uint64_t value) {
  if (value == 0 || value > kMaxDimension) {
    throw FormatError(file.Where(key + " is " + std::to_string(value) + ", expected 1 to " +
                                 std::to_string(kMaxDimension)));
  }
  return value;
}

size_t Dimension(const Gguf& file, const std::string& name) {
  return CheckDimension(file, kPrefix + name, file.GetUint(kPrefix + name));
}

size_t Dimension(const Gguf& file, const std::string& name, size_t fallback) {
  return CheckDimension(file, kPrefix + name, file.GetUint(kPrefix + name, fallback));
}

float Positive(const Gguf& file, const std::string& name, double fallback) {
  const double value = file.GetFloat(kPrefix + name, fallback);
  if (!std::isfinite(value) || value <= 0 || value > 1e9) {
    throw FormatError(
        file.Where(kPrefix + name + " is " + std::to_string(value) + ", expected a positive number"));
  }
  return static_cast<float>(value);
}

void Require(const Gguf& file, bool condition, const std::string& message) {
  if (!condition) throw ModelError(file.Where(message));
}

}  // namespace

Config ReadConfig(const Gguf& file) {
  const std::string architecture(file.GetString("general.architecture"));
  Require(file, architecture == "grok",
          "architecture is '" + Printable(architecture) + "'; pygrok runs 'grok' (Grok-1) files only");

  Config c;
  c.layers = Dimension(file, "block_count");
  c.embedding = Dimension(file, "embedding_length");
  c.context = Dimension(file, "context_length", 8192);
  c.heads = Dimension(file, "attention.head_count");
  c.kv_heads = Dimension(file, "attention.head_count_kv", c.heads);
  c.head_size =
      Dimension(file, "attention.key_length", Dimension(file, "rope.dimension_count", c.embedding / c.heads));
  c.experts = Dimension(file, "expert_count");
  c.experts_used = Dimension(file, "expert_used_count");
  c.expert_width = Dimension(file, "expert_feed_forward_length", Dimension(file, "feed_forward_length"));

  c.embedding_multiplier = Positive(file, "embedding_scale", 78.38367176906169);
  c.output_multiplier = Positive(file, "logit_scale", 0.5773502691896257);
  c.attention_multiplier = Positive(file, "attention.output_scale", 0.08838834764831845);
  c.attention_soft_cap = Positive(file, "attn_logit_softcapping", 30.0);
  c.rms_eps = Positive(file, "attention.layer_norm_rms_epsilon", 1e-5);
  c.rope_base = Positive(file, "rope.freq_base", 10000.0);

  // The vocabulary is what the embedding has rows for.
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw FormatError(file.Where("token_embd.weight is missing or not a matrix"));
  }
  c.vocab = CheckDimension(file, "rows of token_embd.weight", embedding->shape[0]);

  Require(file, c.layers <= 4096,
          "grok.block_count is " + std::to_string(c.layers) + ", at most 4096 are supported");
  Require(file, c.heads % c.kv_heads == 0,
          std::to_string(c.heads) + " query heads cannot share " + std::to_string(c.kv_heads) +
              " key/value heads");
  Require(file, c.head_size % 2 == 0, "head size " + std::to_string(c.head_size) + " is odd");
  Require(file, c.head_size <= 1024, "head size " + std::to_string(c.head_size) + " is above 1024");
  Require(file, c.experts_used <= c.experts,
          "expert_used_count " + std::to_string(c.experts_used) + " is above expert_count " +
              std::to_string(c.experts));
  Require(file, c.experts <= 1024, std::to_string(c.experts) + " experts: at most 1024 are supported");
  Require(file, c.attention_soft_cap <= kMaxSoftCap,
          "attn_logit_softcapping is " + std::to_string(c.attention_soft_cap) + ", at most " +
              std::to_string(kMaxSoftCap) + " is supported");
  Require(file, file.GetUint("grok.rope.dimension_count", c.head_size) == c.head_size,
          "rope.dimension_count differs from the head size: partial rotation is not Grok-1");
  Require(file, file.GetFloat("grok.final_logit_softcapping", 0.0) == 0.0,
          "final_logit_softcapping is set: this is a later Grok than Grok-1");
  return c;
}

}  // namespace pygrok
