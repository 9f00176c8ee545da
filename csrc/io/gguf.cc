#include "io/gguf.h"

#include <utility>

#include "io/gguf_shard.h"
#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

// The value, or the "missing" error.
template <typename T>
T Required(const GgufMetadata& metadata, std::string_view key, const std::optional<T>& value) {
  if (!value) metadata.Fail(key, "is missing: the file is not a complete model: convert it again");
  return *value;
}

}  // namespace

size_t GgufTensor::rows() const {
  size_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

Gguf::Gguf(const std::string& path) {
  files_.emplace_back(path);
  GgufShard shard = ParseGgufShard(files_.front(), 0);
  version_ = shard.version;
  metadata_ = std::move(shard.metadata);
  AddTensors(std::move(shard.tensors));
  OpenShards();
  RequireReadable();
}

void Gguf::RequireReadable() const {
  for (const MappedFile& file : files_) file.RequireReadable();
}

void Gguf::AddTensors(std::vector<GgufTensor> tensors) {
  for (GgufTensor& tensor : tensors) {
    const auto [it, added] = index_.emplace(tensor.name, tensors_.size());
    if (!added) {
      const GgufTensor& other = tensors_[it->second];
      throw FormatError(Printable(files_[tensor.shard].path()) + ": byte " + std::to_string(tensor.offset) +
                        ": tensor " + Quoted(tensor.name) + ": occurs twice, the other at byte " +
                        std::to_string(other.offset) + " of " + Printable(files_[other.shard].path()));
    }
    tensors_.push_back(std::move(tensor));
  }
}

const GgufTensor* Gguf::FindTensor(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const GgufValue* Gguf::FindValue(std::string_view key) const { return metadata_.Find(key); }

uint64_t Gguf::GetUint(std::string_view key) const { return Required(metadata_, key, metadata_.Uint(key)); }
uint64_t Gguf::GetUint(std::string_view key, uint64_t fallback) const {
  return metadata_.Uint(key).value_or(fallback);
}

double Gguf::GetFloat(std::string_view key) const { return Required(metadata_, key, metadata_.Float(key)); }
double Gguf::GetFloat(std::string_view key, double fallback) const {
  return metadata_.Float(key).value_or(fallback);
}

std::string_view Gguf::GetString(std::string_view key) const {
  return Required(metadata_, key, metadata_.String(key));
}
std::string_view Gguf::GetString(std::string_view key, std::string_view fallback) const {
  return metadata_.String(key).value_or(fallback);
}

std::string Gguf::Where(std::string_view message) const { return (Printable(path()) + ": ").append(message); }

}  // namespace pygrok
