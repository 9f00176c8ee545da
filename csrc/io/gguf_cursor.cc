#include "io/gguf_cursor.h"

#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr uint64_t kNameLimit = 65535;  // the format's own, for keys

std::string TooLong(uint64_t wanted, size_t left) {
  return "takes " + std::to_string(wanted) + " bytes where " + std::to_string(left) +
         " are left: the file is truncated or damaged: download it again";
}

}  // namespace

void GgufCursor::EnterItem(const char* kind, uint64_t index, uint64_t count) {
  item_kind_ = kind;
  item_index_ = index;
  item_count_ = count;
  item_name_ = {};
}

const std::byte* GgufCursor::Take(uint64_t bytes, const char* field) {
  if (bytes > left()) Fail(offset_, field, TooLong(bytes, left()));
  const std::byte* start = here();
  offset_ += bytes;
  return start;
}

std::string_view GgufCursor::ReadString(const char* field) {
  const size_t start = offset_;
  const uint64_t length = Read<uint64_t>(field);
  if (length > left()) Fail(start, field, TooLong(length, left()));
  return {reinterpret_cast<const char*>(Take(length, field)), length};
}

std::string_view GgufCursor::ReadName(const char* field) {
  const size_t start = offset_;
  const std::string_view name = ReadString(field);
  if (name.empty()) Fail(start, field, "is empty: the file is damaged: download it again");
  if (name.size() > kNameLimit) {
    Fail(start, field, "is " + std::to_string(name.size()) + " bytes long, the format allows 65535");
  }
  if (!IsUtf8(name)) Fail(start, field, "is not valid UTF-8: " + Quoted(name));
  return name;
}

uint64_t GgufCursor::ReadCount(const char* field, size_t bytes_each) {
  const size_t start = offset_;
  const uint64_t count = Read<uint64_t>(field);
  if (count > left() / bytes_each) {
    Fail(start, field,
         "is " + std::to_string(count) + ", more than the " + std::to_string(left()) +
             " bytes left can hold: the file is truncated or damaged: download it again");
  }
  return count;
}

void GgufCursor::Fail(size_t offset, const char* field, std::string_view message) const {
  std::string text = Printable(file_.path()) + ": byte " + std::to_string(offset) + ": ";
  if (item_kind_ != nullptr) {
    text += item_kind_;
    text += item_name_.empty() ? " " + std::to_string(item_index_ + 1) + " of " + std::to_string(item_count_)
                               : " " + Quoted(item_name_);
    text += ": ";
  }
  text += field;
  throw FormatError(text.append(" ").append(message));
}

}  // namespace pygrok
