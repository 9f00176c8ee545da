#include "kernels/activations.h"

#include "kernels/kernel_table.h"
#include "util/aligned.h"

namespace pygrok {

namespace {

size_t ValueBytes(ActivationFormat format, size_t k) {
  switch (format) {
    case ActivationFormat::kF32:
      return k * sizeof(float);
    case ActivationFormat::kBf16:
      return k * sizeof(uint16_t);
    case ActivationFormat::kBf16x3:
      return 3 * k * sizeof(uint16_t);
    case ActivationFormat::kQ8:
      break;
  }
  return k / kBlockValues * sizeof(ActivationBlock);
}

}  // namespace

// An odd number of cache lines: else the same block of many rows would share few sets of the caches.
size_t ActivationRowBytes(ActivationFormat format, size_t k) {
  return ((ValueBytes(format, k) + kCacheLine - 1) / kCacheLine | 1) * kCacheLine;
}

}  // namespace pygrok
