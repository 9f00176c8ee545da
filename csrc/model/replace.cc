// Other bytes in the place of a tensor of the file, to measure what they do to the results.
#include <cstring>
#include <stdexcept>

#include "model/engine.h"
#include "util/error.h"

namespace pygrok {

void Engine::ReplaceTensor(const std::string& name, TensorType type, std::span<const std::byte> data,
                           const Poll& poll) {
  const Lock lock = Acquire(poll);
  const GgufTensor* original = file_->FindTensor(name);
  if (original == nullptr) throw std::invalid_argument("the model has no tensor named '" + name + "'");
  auto refuse = [&](const std::string& message) { throw std::invalid_argument(name + ": " + message); };
  const TensorTypeInfo& info = InfoOf(type);
  if (original->shape.size() == 1 ? type != TensorType::kF32 : kernels_.of(type).matmul == nullptr) {
    refuse(std::string(info.name) + " cannot stand here: " +
           (original->shape.size() == 1 ? "norms are f32" : "the engine does not run this type"));
  }
  if (original->columns() % info.block_size != 0) {
    refuse("rows of " + std::to_string(original->columns()) + " values do not divide into the blocks of " +
           std::to_string(info.block_size) + " that " + info.name + " has");
  }
  const size_t bytes = original->rows() * RowBytes(type, original->columns());
  if (data.size() != bytes) {
    refuse("data has " + std::to_string(data.size()) + " bytes, " + info.name + " takes " +
           std::to_string(bytes));
  }

  ledger_->Charge(bytes, "a replaced tensor");
  AlignedBuffer<std::byte> copy;
  Weights weights;
  Replacements replacements = replacements_;
  try {
    copy = AlignedBuffer<std::byte>(bytes);
    std::memcpy(copy.data(), data.data(), bytes);
    GgufTensor tensor = *original;
    tensor.type = type;
    tensor.bytes = bytes;
    tensor.data = copy.data();
    replacements.insert_or_assign(name, std::move(tensor));
    weights = FindWeights(*file_, config_, kernels_, replacements);
    paging_->Attach(weights);
  } catch (const std::bad_alloc&) {
    ledger_->Release(bytes);
    throw MemoryLimit("the system has no memory for a replaced tensor of " + std::to_string(bytes) +
                      " bytes");
  } catch (...) {
    ledger_->Release(bytes);
    throw;
  }
  AlignedBuffer<std::byte>& held = replaced_bytes_[name];
  ledger_->Release(held.size());
  held = std::move(copy);
  replacements_ = std::move(replacements);
  weights_ = std::move(weights);
  weights_version_ = ++versions_;
}

void Engine::RestoreTensor(const std::string& name, const Poll& poll) {
  const Lock lock = Acquire(poll);
  const auto held = replaced_bytes_.find(name);
  if (held == replaced_bytes_.end()) throw std::invalid_argument("no tensor '" + name + "' was replaced");
  Replacements replacements = replacements_;
  replacements.erase(name);
  Weights weights = FindWeights(*file_, config_, kernels_, replacements);
  paging_->Attach(weights);
  weights_ = std::move(weights);
  replacements_ = std::move(replacements);
  ledger_->Release(held->second.size());
  replaced_bytes_.erase(held);
  weights_version_ = replacements_.empty() ? 0 : ++versions_;
}

}  // namespace pygrok
