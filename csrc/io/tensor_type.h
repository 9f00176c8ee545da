// The tensor types of the GGUF format: number, name and block geometry. Facts of the format, all of
// them known here; which of them the engine can run is the kernel table's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pygrok {

// Values are the format's own numbers.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
};

inline constexpr size_t kTensorTypeLimit = 42;  // one past the largest number

struct TensorTypeInfo {
  TensorType type;
  const char* name;    // lower case, as in "q4_0"
  size_t block_size;   // values a block
  size_t block_bytes;  // bytes a block
};

// Returns nullptr for a number that the format does not define.
const TensorTypeInfo* FindTensorType(uint32_t number);
const TensorTypeInfo* FindTensorType(std::string_view name);

inline const TensorTypeInfo& InfoOf(TensorType type) { return *FindTensorType(static_cast<uint32_t>(type)); }

// Bytes of one row of `k` values; `k` is a multiple of the block size.
inline size_t RowBytes(TensorType type, size_t k) {
  const TensorTypeInfo& info = InfoOf(type);
  return k / info.block_size * info.block_bytes;
}

}  // namespace pygrok
