// The key-value part of a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace pygrok {

// The format's own numbers.
enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// A metadata array, left in the mapped file: `data` points at its first element (little-endian, packed, so
// not aligned; strings are a uint64 length followed by the bytes, all lengths already checked).
struct GgufArray {
  GgufValueType type;  // of the elements; never kArray (nested arrays are refused)
  uint64_t count;
  const std::byte* data;
  size_t bytes;  // that the elements take in the file
};

// Integers of every width arrive as int64 or uint64, floats as double.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string_view, GgufArray>;

// The next string of an array of strings; moves `rest` behind it. Lengths were checked when the file was
// opened, but it may have been written over since: an empty string_view without data if `rest` is too short.
std::string_view NextString(std::span<const std::byte>& rest);

// Metadata of one file. Reads throw FormatError, naming file, byte and key, when the value is of another kind
// or does not fit; they return nothing when the key is absent.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  explicit GgufMetadata(std::string path) : path_(std::move(path)) {}

  // `offset`: of the entry in the file. False, and no change, when the key is already there.
  bool Add(std::string_view key, size_t offset, const GgufValue& value);

  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }
  const GgufValue* Find(std::string_view key) const;  // nullptr if absent
  std::optional<uint64_t> Uint(std::string_view key) const;
  std::optional<double> Float(std::string_view key) const;
  std::optional<std::string_view> String(std::string_view key) const;

  // FormatError about the value of `key`, which may be absent.
  [[noreturn]] void Fail(std::string_view key, std::string_view message) const;

 private:
  std::string path_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::map<std::string, size_t, std::less<>> offsets_;
};

}  // namespace pygrok
