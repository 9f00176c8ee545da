// Everything that makes a kernel table, for an instruction set whose simd_*.h has been included.
#pragma once

#include "kernels/formats.inl.h"
#include "kernels/math.inl.h"
// These build on the two above.
#include "kernels/codec.inl.h"
#include "kernels/kv_panels.inl.h"
#include "kernels/limits.inl.h"
#include "kernels/matmul_float.inl.h"
#include "kernels/prepare.inl.h"
#include "kernels/vector.inl.h"
// These build on codec.inl.h and kv_panels.inl.h.
#include "kernels/attention.inl.h"
#include "kernels/codec_iq.inl.h"
#include "kernels/codec_iq1.inl.h"
#include "kernels/codec_k.inl.h"
#include "kernels/codec_plain.inl.h"
#include "kernels/codec_ternary.inl.h"
#include "kernels/matmul_q8.inl.h"
#ifdef __ARM_FEATURE_MATMUL_INT8
#include "kernels/matmul_i8mm.inl.h"
#endif

namespace pygrok {
namespace {

template <class Codec>
constexpr WeightKernels BlockKernels() {
#ifdef __ARM_FEATURE_MATMUL_INT8
  return {ActivationFormat::kQ8, MatmulPairs<Codec>, DequantizeBlocks<Codec>};
#else
  return {ActivationFormat::kQ8, MatmulQ8<Codec>, DequantizeBlocks<Codec>};
#endif
}

template <class Format, class Dot = FloatDot<Format>>
constexpr WeightKernels FloatKernels() {
  return {Dot::kActivation, MatmulFloat<Dot>, ReadFloats<Format>};
}

template <class Cache>
constexpr KvKernels CacheKernels() {
  return {Cache::StoreVector, Cache::LoadVector, Attend<Cache>};
}

constexpr void SetKernels(KernelTable& table, TensorType type, const WeightKernels& kernels) {
  table.weights[static_cast<size_t>(type)] = kernels;
}

constexpr KernelTable MakeTable(const char* name, const char* description) {
  KernelTable table = {};
  table.name = name;
  table.description = description;
  SetKernels(table, TensorType::kF32, FloatKernels<FormatF32>());
  SetKernels(table, TensorType::kF16, FloatKernels<FormatF16>());
#ifdef PYGROK_BF16_DOT
  SetKernels(table, TensorType::kBF16, FloatKernels<FormatBf16, Bf16Dot>());
#else
  SetKernels(table, TensorType::kBF16, FloatKernels<FormatBf16>());
#endif
  SetKernels(table, TensorType::kQ4_0, BlockKernels<CodecQ4_0>());
  SetKernels(table, TensorType::kQ8_0, BlockKernels<CodecQ8_0>());
  SetKernels(table, TensorType::kQ4_1, BlockKernels<CodecQ4_1>());
  SetKernels(table, TensorType::kQ5_0, BlockKernels<CodecQ5_0>());
  SetKernels(table, TensorType::kQ5_1, BlockKernels<CodecQ5_1>());
  SetKernels(table, TensorType::kQ2_K, BlockKernels<CodecQ2_K>());
  SetKernels(table, TensorType::kQ3_K, BlockKernels<CodecQ3_K>());
  SetKernels(table, TensorType::kQ4_K, BlockKernels<CodecQ4_K>());
  SetKernels(table, TensorType::kQ5_K, BlockKernels<CodecQ5_K>());
  SetKernels(table, TensorType::kQ6_K, BlockKernels<CodecQ6_K>());
  SetKernels(table, TensorType::kIQ2_XXS, BlockKernels<CodecIQ2_XXS>());
  SetKernels(table, TensorType::kIQ2_XS, BlockKernels<CodecIQ2_XS>());
  SetKernels(table, TensorType::kIQ3_XXS, BlockKernels<CodecIQ3_XXS>());
  SetKernels(table, TensorType::kIQ1_S, BlockKernels<CodecIQ1_S>());
  SetKernels(table, TensorType::kIQ4_NL, BlockKernels<CodecIQ4_NL>());
  SetKernels(table, TensorType::kIQ3_S, BlockKernels<CodecIQ3_S>());
  SetKernels(table, TensorType::kIQ2_S, BlockKernels<CodecIQ2_S>());
  SetKernels(table, TensorType::kIQ4_XS, BlockKernels<CodecIQ4_XS>());
  SetKernels(table, TensorType::kIQ1_M, BlockKernels<CodecIQ1_M>());
  SetKernels(table, TensorType::kTQ1_0, BlockKernels<CodecTQ1_0>());
  SetKernels(table, TensorType::kTQ2_0, BlockKernels<CodecTQ2_0>());
  SetKernels(table, TensorType::kMXFP4, BlockKernels<CodecMXFP4>());
  table.kv[static_cast<size_t>(KvType::kF32)] = CacheKernels<FloatCache<FormatF32>>();
  table.kv[static_cast<size_t>(KvType::kF16)] = CacheKernels<FloatCache<FormatF16>>();
  table.kv[static_cast<size_t>(KvType::kBf16)] = CacheKernels<FloatCache<FormatBf16>>();
  table.kv[static_cast<size_t>(KvType::kQ8_0)] = CacheKernels<Q8Cache>();
  table.prepare = Prepare;
  table.rms_norm = RmsNorm;
  table.gelu_mul = GeluMul;
  table.axpy = Axpy;
  table.rope = Rope;
  table.softmax = Softmax;
  table.log_sum_exp = LogSumExp;
  table.read = ReadAll;
  table.dot_rounds = DotRounds;
  table.dot_macs_per_round = kDotChains * sizeof(Bytes);
  return table;
}

}  // namespace
}  // namespace pygrok
