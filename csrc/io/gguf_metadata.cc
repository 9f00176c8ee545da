#include "io/gguf_metadata.h"

#include <cstring>

#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

// Indexed like the variant.
const char* KindOf(const GgufValue& value) {
  static constexpr const char* kKinds[] = {"a bool",  "an integer", "an integer",
                                           "a float", "a string",   "an array"};
  return kKinds[value.index()];
}

}  // namespace

std::string_view NextString(std::span<const std::byte>& rest) {
  uint64_t length;
  if (rest.size() < sizeof length) return {};
  std::memcpy(&length, rest.data(), sizeof length);
  rest = rest.subspan(sizeof length);
  if (length > rest.size()) return {};
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), length);
  rest = rest.subspan(length);
  return text;
}

bool GgufMetadata::Add(std::string_view key, size_t offset, const GgufValue& value) {
  if (!values_.emplace(key, value).second) return false;
  offsets_.emplace(key, offset);
  return true;
}

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

void GgufMetadata::Fail(std::string_view key, std::string_view message) const {
  std::string text = Printable(path_) + ": ";
  const auto it = offsets_.find(key);
  if (it != offsets_.end()) text += "byte " + std::to_string(it->second) + ": ";
  text += "metadata key " + Quoted(key) + ": ";
  throw FormatError(text.append(message));
}

std::optional<uint64_t> GgufMetadata::Uint(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* u = std::get_if<uint64_t>(value)) return *u;
  if (const auto* i = std::get_if<int64_t>(value)) {
    if (*i >= 0) return static_cast<uint64_t>(*i);
    Fail(key, "is " + std::to_string(*i) + ", must not be negative");
  }
  Fail(key, std::string("is ") + KindOf(*value) + ", must be an integer");
}

std::optional<double> GgufMetadata::Float(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<double>(value)) return *d;
  if (const auto* u = std::get_if<uint64_t>(value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(value)) return static_cast<double>(*i);
  Fail(key, std::string("is ") + KindOf(*value) + ", must be a number");
}

std::optional<std::string_view> GgufMetadata::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* s = std::get_if<std::string_view>(value)) return *s;
  Fail(key, std::string("is ") + KindOf(*value) + ", must be a string");
}

}  // namespace pygrok
