// Text from files and paths, made safe for messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pygrok {

// Well-formed UTF-8 (RFC 3629): no overlong forms, surrogates or code points above U+10FFFF.
bool IsUtf8(std::string_view text);

// `text` on one line of valid UTF-8: control characters, quotes and stray bytes as \xNN, cut after `limit`
// bytes.
std::string Printable(std::string_view text, size_t limit = 4096);

// Printable, in double quotes and short: for names that a file gives.
std::string Quoted(std::string_view name);

}  // namespace pygrok
