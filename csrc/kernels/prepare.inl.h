// Activations as the matmuls want them. Include after formats.inl.h.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernel_table.h"

namespace pygrok {
namespace {

// scale = max|x| / 127; value = x * (127 / max|x|), rounded to nearest even: the same bits on every
// instruction set. |value| <= 127 always, on which the kernels' overflow proofs rest. A block with a NaN or
// an infinity becomes all NaN (through its scale), so that it shows in the result.
void PrepareQ8(const float* x, size_t k, std::byte* out) {
  for (size_t i = 0; i + kBlockValues <= k; i += kBlockValues, out += sizeof(ActivationBlock)) {
    ActivationBlock block = {};
    const uint32_t bits = MaxMagnitudeBits(x + i);
    float max;
    __builtin_memcpy(&max, &bits, sizeof max);
    if (bits >= 0x7f800000) {
      block.scale = __builtin_nanf("");  // and the sums stay 0: fma with a NaN product is NaN already
    } else if (max >= kSmallestActivation) {
      const int32_t sum = QuantizeBlock(x + i, 127.0f / max, block.values);
      int32_t first = 0;
      for (size_t j = 0; j < kBlockValues / 2; ++j) first += block.values[j];
      block.scale = max / 127.0f;
      block.minus_8_sum = -8 * sum;
      const int32_t sums[3] = {first, sum - first, sum};
      for (size_t part = 0; part < 3; ++part) {
        block.minus_128_sum[part] = -128 * sums[part];
        block.minus_sum[part] = block.scale * static_cast<float>(-sums[part]);
      }
    }
    __builtin_memcpy(out, &block, sizeof block);
  }
}

// What three numbers of 8 significant bits leave over is below a float's last bit.
void PrepareBf16x3(const float* x, size_t k, std::byte* out) {
  constexpr size_t kPartBytes = kBlockValues * FormatBf16::kBytes;
  for (size_t i = 0; i < k; i += kLanes) {
    F32 rest = Load(x + i);
    std::byte* to = out + i / kBlockValues * 3 * kPartBytes + i % kBlockValues * FormatBf16::kBytes;
    for (size_t part = 0; part < 3; ++part, to += kPartBytes) {
      FormatBf16::WriteN(to, rest, kLanes);
      rest = Sub(rest, FormatBf16::Read(to));
    }
  }
}

void Prepare(ActivationFormat format, const float* x, size_t k, std::byte* out) {
  switch (format) {
    case ActivationFormat::kF32:
      __builtin_memcpy(out, x, k * sizeof(float));
      break;
    case ActivationFormat::kBf16:
      WriteFloats<FormatBf16>(x, k, out);
      break;
    case ActivationFormat::kBf16x3:
      PrepareBf16x3(x, k, out);
      break;
    case ActivationFormat::kQ8:
      PrepareQ8(x, k, out);
      break;
  }
}

}  // namespace
}  // namespace pygrok
