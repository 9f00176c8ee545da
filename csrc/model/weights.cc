#include "model/weights.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_set>

#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr size_t kProblemsShown = 8;

std::string ShapeText(const std::vector<size_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Looks tensors up and gathers complaints, so that the user sees all of them at once.
class Finder {
 public:
  Finder(const Gguf& file, const KernelTable& kernels, const Replacements& replacements)
      : file_(file), kernels_(kernels), replacements_(replacements) {}

  // The first of `names` that exists, or nullptr.
  const GgufTensor* FindAny(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (const GgufTensor* tensor = file_.FindTensor(name)) {
        used_.insert(tensor);
        return Current(tensor);
      }
    }
    return nullptr;
  }

  const float* Vector(const std::vector<std::string>& names, size_t size) {
    const GgufTensor* tensor = Find(names, {size});
    if (tensor == nullptr) return nullptr;
    if (tensor->type != TensorType::kF32) {
      problems_.push_back(Printable(tensor->name) + " is " + InfoOf(tensor->type).name + ", expected f32");
      return nullptr;
    }
    if (reinterpret_cast<uintptr_t>(tensor->data) % alignof(float) != 0) {
      problems_.push_back(Printable(tensor->name) + " is not aligned to 4 bytes in the file");
      return nullptr;
    }
    return reinterpret_cast<const float*>(tensor->data);
  }

  // One matrix of rows x columns; with `count` > 0 the tensor holds that many, and matrix `index` is
  // returned.
  Matrix MatrixOf(const std::string& name, size_t rows, size_t columns, size_t count = 0, size_t index = 0) {
    std::vector<size_t> shape = {rows, columns};
    if (count > 0) shape.insert(shape.begin(), count);
    const GgufTensor* tensor = index == 0 ? Find({name}, shape) : Current(file_.FindTensor(name));
    if (tensor == nullptr || tensor->shape != shape) return {};  // index 0 has complained
    if (kernels_.of(tensor->type).matmul == nullptr) {
      if (index == 0) {
        problems_.push_back(Printable(tensor->name) + " has type " + InfoOf(tensor->type).name +
                            ", which this engine cannot run");
      }
      return {};
    }
    const size_t row_bytes = RowBytes(tensor->type, columns);
    return {tensor->data + index * rows * row_bytes, tensor->type, rows, columns, row_bytes};
  }

  bool Has(const std::string& name) const { return file_.FindTensor(name) != nullptr; }

  void Finish() {
    for (const GgufTensor& tensor : file_.tensors()) {
      // Frequencies some converters store; Grok-1's follow from rope.freq_base.
      if (tensor.name == "rope_freqs.weight" || used_.count(&tensor)) continue;
      problems_.push_back(Printable(tensor.name) + " is not part of Grok-1");
    }
    if (problems_.empty()) return;
    std::string message = "the tensors are not those of the Grok-1 that the metadata describes: ";
    for (size_t i = 0; i < std::min(problems_.size(), kProblemsShown); ++i) {
      message += (i ? "; " : "") + problems_[i];
    }
    if (problems_.size() > kProblemsShown) {
      message += "; and " + std::to_string(problems_.size() - kProblemsShown) + " more";
    }
    throw ModelError(file_.Where(message));
  }

 private:
  // The tensor itself, or what stands in for it.
  const GgufTensor* Current(const GgufTensor* tensor) const {
    if (tensor == nullptr) return nullptr;
    const auto found = replacements_.find(tensor->name);
    return found == replacements_.end() ? tensor : &found->second;
  }

  const GgufTensor* Find(const std::vector<std::string>& names, const std::vector<size_t>& shape) {
    const GgufTensor* tensor = FindAny(names);
    if (tensor == nullptr) {
      problems_.push_back(names.front() + " is missing");
      return nullptr;
    }
    if (tensor->shape != shape) {
      problems_.push_back(Printable(tensor->name) + " has shape " + ShapeText(tensor->shape) + ", expected " +
                          ShapeText(shape));
      return nullptr;
    }
    return tensor;
  }

  const Gguf& file_;
  const KernelTable& kernels_;
  const Replacements& replacements_;
  std::unordered_set<const GgufTensor*> used_;
  std::vector<std::string> problems_;
};

std::vector<ExpertWeights> FindExperts(Finder& find, const std::string& block, const Config& c) {
  std::vector<ExpertWeights> experts(c.experts);
  // Very old files hold every expert as tensors of its own.
  const bool merged = find.Has(block + "ffn_gate_exps.weight") || !find.Has(block + "ffn_gate.0.weight");
  for (size_t e = 0; e < c.experts; ++e) {
    if (merged) {
      experts[e] = {find.MatrixOf(block + "ffn_gate_exps.weight", c.expert_width, c.embedding, c.experts, e),
                    find.MatrixOf(block + "ffn_up_exps.weight", c.expert_width, c.embedding, c.experts, e),
                    find.MatrixOf(block + "ffn_down_exps.weight", c.embedding, c.expert_width, c.experts, e)};
    } else {
      std::string suffix = ".";  // in steps: g++ 12 warns wrongly of "." + to_string
      suffix += std::to_string(e) + ".weight";
      experts[e] = {find.MatrixOf(block + "ffn_gate" + suffix, c.expert_width, c.embedding),
                    find.MatrixOf(block + "ffn_up" + suffix, c.expert_width, c.embedding),
                    find.MatrixOf(block + "ffn_down" + suffix, c.embedding, c.expert_width)};
    }
  }
  return experts;
}

}  // namespace

Weights FindWeights(const Gguf& file, const Config& c, const KernelTable& kernels,
                    const Replacements& replacements) {
  Finder find(file, kernels, replacements);
  Weights w;
  w.embedding = find.MatrixOf("token_embd.weight", c.vocab, c.embedding);
  const bool tied = !find.Has("output.weight");
  w.output = tied ? w.embedding : find.MatrixOf("output.weight", c.vocab, c.embedding);
  w.output_norm = find.Vector({"output_norm.weight"}, c.embedding);

  // A lying block_count must not allocate more than the file can back.
  const size_t layers = std::min(c.layers, file.tensors().size());
  w.layers.resize(layers);
  for (size_t i = 0; i < layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    LayerWeights& layer = w.layers[i];
    layer.attention_norm = find.Vector({block + "attn_norm.weight"}, c.embedding);
    layer.attention_output_norm = find.Vector({block + "attn_output_norm.weight"}, c.embedding);
    layer.expert_norm = find.Vector({block + "ffn_norm.weight"}, c.embedding);
    layer.output_norm =
        find.Vector({block + "layer_output_norm.weight", block + "post_ffw_norm.weight"}, c.embedding);
    layer.q = find.MatrixOf(block + "attn_q.weight", c.q_width(), c.embedding);
    layer.k = find.MatrixOf(block + "attn_k.weight", c.kv_width(), c.embedding);
    layer.v = find.MatrixOf(block + "attn_v.weight", c.kv_width(), c.embedding);
    layer.attention_output = find.MatrixOf(block + "attn_output.weight", c.embedding, c.q_width());
    layer.router = find.MatrixOf(block + "ffn_gate_inp.weight", c.experts, c.embedding);
    layer.experts = FindExperts(find, block, c);
  }
  find.Finish();
  if (layers < c.layers) throw ModelError(file.Where("grok.block_count exceeds the layers in the file"));
  return w;
}

}  // namespace pygrok
