#include "kernels/activations.h"

#include "kernels/kernel_table.h"
#include "util/aligned.h"

namespace pygrok {

size_t ActivationRowBytes(ActivationFormat format, size_t k) {
  switch (format) {
    case ActivationFormat::kF32:
      return RoundUp(k * sizeof(float), kCacheLine);
    case ActivationFormat::kBf16:
      return RoundUp(k * sizeof(uint16_t), kCacheLine);
    case ActivationFormat::kQ8:
      break;
  }
  return RoundUp(k / kBlockValues * sizeof(ActivationBlock), kCacheLine);
}

}  // namespace pygrok
