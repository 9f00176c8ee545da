// What the formats have in common in how they put one row's block into bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/lanes.h"

namespace pygrok {
namespace {

PYGROK_LANES void PutHalf(const U32x& bits, size_t lane, uint8_t* to) {
  const auto half = static_cast<uint16_t>(bits[lane]);
  std::memcpy(to, &half, sizeof(half));
}

// kBits of each code, from bit `shift` on. Byte i of kBytes holds those of the codes i, i + kBytes,
// i + 2 * kBytes and so on, lowest bits first.
template <size_t kBits, size_t kBytes>
PYGROK_LANES void PackBits(const uint8_t* codes, int shift, uint8_t* to) {
  constexpr int kMask = (1 << kBits) - 1;
  for (size_t i = 0; i < kBytes; ++i) {
    int byte = 0;
    for (size_t j = 0; j < 8 / kBits; ++j) byte |= (codes[j * kBytes + i] >> shift & kMask) << kBits * j;
    to[i] = static_cast<uint8_t>(byte);
  }
}

}  // namespace
}  // namespace pygrok
