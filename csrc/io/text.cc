#include "io/text.h"

#include <cstdint>

namespace pygrok {
namespace {

// Length of the well-formed sequence at the front of `text` (not empty); 0 if there is none.
size_t SequenceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  uint8_t low = 0x80, high = 0xBF;  // range of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Printable(std::string_view text, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "...";
    const size_t length = SequenceLength(text);
    const uint8_t lead = static_cast<uint8_t>(text[0]);
    // U+0080..U+009F are control characters too, U+2028 and U+2029 end a line.
    const bool plain = length > 0 && lead >= 0x20 && lead != 0x7F && lead != '"' &&
                       !(lead == 0xC2 && static_cast<uint8_t>(text[1]) < 0xA0) &&
                       !text.starts_with("\xE2\x80\xA8") && !text.starts_with("\xE2\x80\xA9");
    const size_t taken = length == 0 ? 1 : length;
    if (plain) {
      out += text.substr(0, taken);
    } else {
      for (size_t i = 0; i < taken; ++i) {
        const uint8_t b = static_cast<uint8_t>(text[i]);
        out += {'\\', 'x', kHex[b >> 4], kHex[b & 15]};
      }
    }
    text.remove_prefix(taken);
  }
  return out;
}

std::string Quoted(std::string_view name) { return '"' + Printable(name, 80) + '"'; }

}  // namespace pygrok
