#include "io/tensor_type.h"

#include <array>

namespace pygrok {
namespace {

// Numbers that are missing were removed from the format (4, 5, 31-33, 36-38): no file of this age holds them.
constexpr TensorTypeInfo kDefined[] = {
    {TensorType::kF32, "f32", 1, 4},
    {TensorType::kF16, "f16", 1, 2},
    {TensorType::kQ4_0, "q4_0", 32, 18},
    {TensorType::kQ4_1, "q4_1", 32, 20},
    {TensorType::kQ5_0, "q5_0", 32, 22},
    {TensorType::kQ5_1, "q5_1", 32, 24},
    {TensorType::kQ8_0, "q8_0", 32, 34},
    {TensorType::kQ8_1, "q8_1", 32, 36},  // two f16 and 32 int8; some tables still give the older two f32
    {TensorType::kQ2_K, "q2_k", 256, 84},
    {TensorType::kQ3_K, "q3_k", 256, 110},
    {TensorType::kQ4_K, "q4_k", 256, 144},
    {TensorType::kQ5_K, "q5_k", 256, 176},
    {TensorType::kQ6_K, "q6_k", 256, 210},
    {TensorType::kQ8_K, "q8_k", 256, 292},
    {TensorType::kIQ2_XXS, "iq2_xxs", 256, 66},
    {TensorType::kIQ2_XS, "iq2_xs", 256, 74},
    {TensorType::kIQ3_XXS, "iq3_xxs", 256, 98},
    {TensorType::kIQ1_S, "iq1_s", 256, 50},
    {TensorType::kIQ4_NL, "iq4_nl", 32, 18},
    {TensorType::kIQ3_S, "iq3_s", 256, 110},
    {TensorType::kIQ2_S, "iq2_s", 256, 82},
    {TensorType::kIQ4_XS, "iq4_xs", 256, 136},
    {TensorType::kI8, "i8", 1, 1},
    {TensorType::kI16, "i16", 1, 2},
    {TensorType::kI32, "i32", 1, 4},
    {TensorType::kI64, "i64", 1, 8},
    {TensorType::kF64, "f64", 1, 8},
    {TensorType::kIQ1_M, "iq1_m", 256, 56},
    {TensorType::kBF16, "bf16", 1, 2},
    {TensorType::kTQ1_0, "tq1_0", 256, 54},
    {TensorType::kTQ2_0, "tq2_0", 256, 66},
    {TensorType::kMXFP4, "mxfp4", 32, 17},
    {TensorType::kNVFP4, "nvfp4", 64, 36},
    {TensorType::kQ1_0, "q1_0", 128, 18},
};

// By number; a null name marks a number that is not defined.
constexpr auto kByNumber = [] {
  std::array<TensorTypeInfo, kTensorTypeLimit> table{};
  for (const TensorTypeInfo& info : kDefined) table[static_cast<size_t>(info.type)] = info;
  return table;
}();

}  // namespace

const TensorTypeInfo* FindTensorType(uint32_t number) {
  if (number >= kByNumber.size() || kByNumber[number].name == nullptr) return nullptr;
  return &kByNumber[number];
}

const TensorTypeInfo* FindTensorType(std::string_view name) {
  for (const TensorTypeInfo& info : kDefined) {
    if (name == info.name) return &kByNumber[static_cast<size_t>(info.type)];
  }
  return nullptr;
}

}  // namespace pygrok
