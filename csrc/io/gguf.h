// GGUF files, versions 2 and 3, single or split, read without trusting a byte of them.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/gguf_metadata.h"
#include "io/mapped_file.h"
#include "io/tensor_type.h"

namespace pygrok {

struct GgufTensor {
  std::string name;
  TensorType type;
  std::vector<size_t>
      shape;  // slowest first, as numpy has it: rows x columns; the reverse of the file's order
  size_t bytes;
  const std::byte* data;
  size_t shard;   // index into Gguf::files()
  size_t offset;  // of the data in that file

  size_t columns() const { return shape.back(); }
  size_t rows() const;  // product of all dimensions but the last
};

class Gguf {
 public:
  // Opens `path`; if it is the first of a split set, all shards. Throws FormatError (with file, byte offset
  // and field), std::system_error.
  explicit Gguf(const std::string& path);

  const std::string& path() const { return files_.front().path(); }
  const std::vector<MappedFile>& files() const { return files_; }
  uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_.values(); }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  // Throws FormatError if a page of any shard could not be read since it was mapped.
  void RequireReadable() const;

  const GgufTensor* FindTensor(std::string_view name) const;  // nullptr if absent
  const GgufValue* FindValue(std::string_view key) const;     // nullptr if absent; of the first shard

  // Typed reads of a metadata value. The first form throws FormatError when the key is missing; both throw it
  // when the value is of another kind or does not fit (a uint read of -1, a float read of a string).
  uint64_t GetUint(std::string_view key) const;
  uint64_t GetUint(std::string_view key, uint64_t fallback) const;
  double GetFloat(std::string_view key) const;  // accepts integers too
  double GetFloat(std::string_view key, double fallback) const;
  std::string_view GetString(std::string_view key) const;
  std::string_view GetString(std::string_view key, std::string_view fallback) const;

  // "path: message", for errors about this file's contents.
  std::string Where(std::string_view message) const;

 private:
  void OpenShards();
  void AddTensors(std::vector<GgufTensor> tensors);

  std::vector<MappedFile> files_;
  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace pygrok
