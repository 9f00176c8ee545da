// Reads little-endian fields of an untrusted file, one after another, never past its end.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "io/mapped_file.h"

namespace pygrok {

static_assert(sizeof(size_t) == 8, "offsets in files need 64 bits");
static_assert(std::endian::native == std::endian::little, "the file's numbers are read as they lie");

class GgufCursor {
 public:
  explicit GgufCursor(const MappedFile& file) : file_(file) {}

  size_t offset() const { return offset_; }
  size_t left() const { return file_.size() - offset_; }
  const std::byte* here() const { return file_.data() + offset_; }

  // What is being read, for messages: first by its place ("tensor 3 of 832"), by name once that is known.
  void EnterItem(const char* kind, uint64_t index, uint64_t count);
  void NameItem(std::string_view name) { item_name_ = name; }
  void LeaveItem() { item_kind_ = nullptr; }

  template <typename T>
  T Read(const char* field) {
    T value;
    std::memcpy(&value, Take(sizeof(T), field), sizeof(T));
    return value;
  }

  // `bytes` bytes, left where they are.
  const std::byte* Take(uint64_t bytes, const char* field);

  // A uint64 length and that many bytes.
  std::string_view ReadString(const char* field);

  // The same, for keys and names: UTF-8 of 1 to 65535 bytes.
  std::string_view ReadName(const char* field);

  // A count of things that take at least `bytes_each` of the file each, so that nothing is allocated for a
  // lie.
  uint64_t ReadCount(const char* field, size_t bytes_each);

  // Throws FormatError: "file: byte N: item: field: message".
  [[noreturn]] void Fail(size_t offset, const char* field, std::string_view message) const;

 private:
  const MappedFile& file_;
  size_t offset_ = 0;
  const char* item_kind_ = nullptr;
  uint64_t item_index_ = 0;
  uint64_t item_count_ = 0;
  std::string_view item_name_;
};

}  // namespace pygrok
