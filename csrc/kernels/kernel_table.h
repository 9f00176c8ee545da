// What the model asks of the processor, as a table of functions: one table per instruction set.
// The model and the quantizer see only this file and registry.h.
//
// Numbers contract. Every output is computed in one fixed order that depends neither on how many tokens share
// the call nor on how rows are split over threads, so a prompt gives the same bits in one piece or in many.
// Matmuls on quantized weights even give the same bits on every instruction set: for each block of 32 values,
// in rising order, for each of its one or two groups an exact integer dot product and
//   acc = fma(d_weight * d_activation, float(dot), acc),
// then, if the type has minima, for each group
//   acc = fma(minimum, -(d_activation * float(sum of activations)), acc).
// Only matmul_many, which few tables have, is free of this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "io/tensor_type.h"

namespace pygrok {

// How a matmul wants its activations.
enum class ActivationFormat : uint8_t {
  kF32,     // as they are
  kBf16,    // rounded to bfloat16
  kBf16x3,  // as the sum of three bfloat16, each for what those before it leave over
  kQ8,      // int8 in blocks of 32 with an f32 scale each, see activations.h
};

// Cache format of keys and values. kQ8_0: blocks of 32 values along the head, as GGUF's Q8_0.
enum class KvType : uint8_t { kF32, kF16, kBf16, kQ8_0 };
inline constexpr size_t kKvTypes = 4;

inline constexpr size_t kRowTile = 64;               // model code splits weight rows at multiples of this
inline constexpr size_t kScratchBytes = 640 * 1024;  // per worker, for unpacked weights and sums
inline constexpr size_t kManyTokens = 16;            // from here on matmul_many may be called

// out[t * out_stride + r] = weights[r] . activations[t] for r < rows, t < n.
struct MatmulArgs {
  const std::byte* weights;  // [rows] of row_bytes each
  size_t row_bytes;
  size_t rows;
  size_t k;                      // values in a row: a multiple of the type's block size
  const std::byte* activations;  // [n] of ActivationRowBytes(format, k) each, 64-byte aligned
  size_t n;
  float* out;
  size_t out_stride;        // in floats
  std::byte* scratch;       // kScratchBytes, 64-byte aligned
  size_t piece_stride = 0;  // of matmul_many: its activations lie in pieces, see activations.h
};

// What is known of one weight type. matmul is nullptr for a type that the engine cannot run.
struct WeightKernels {
  ActivationFormat activation;
  void (*matmul)(const MatmulArgs& args);
  void (*dequantize)(const std::byte* row, size_t k, float* out);
  // For kManyTokens or more, in pieces, and k a multiple of 32: faster and at least as near to the exact
  // product, but outside of the contract on bits. Each output still depends on its own row and token alone.
  // nullptr where matmul is as good as it gets.
  ActivationFormat many_activation = ActivationFormat::kF32;
  void (*matmul_many)(const MatmulArgs& args) = nullptr;
};

inline constexpr size_t kKvBlockPositions = 64;
inline constexpr float kMaxSoftCap = 60.0f;
inline constexpr size_t kWeightSums = 16;   // partial sums that attend keeps for a query
inline constexpr size_t kAccMultiple = 16;  // rows of its outputs are padded to a multiple of this

// Some query vectors of one key/value head against one run of kKvBlockPositions cached positions, added to
// running sums:
//   p = exp(cap * tanh(q.k / cap)); acc[i] += p * v; sum[i] += p
// No running maximum: the soft cap bounds every score (|score| <= cap <= 60), so exp neither overflows nor
// vanishes in f32, and runs simply add up. The caller divides acc by the total of sum at the end.
//
// Keys lie transposed, k[d][64]; values v[64][d]. kQ8_0: groups of 32 dimensions, each the 64 scales (half)
// of the positions, then 64 x 32 codes in pieces of 64: a piece of k is a dimension, a piece of v two
// positions; byte 4 r + b of a piece is its code 16 b + r.
struct AttendArgs {
  const float* q;  // [n_q][d], already multiplied by the attention scale
  size_t n_q;
  const void* k;
  const void* v;
  size_t d;               // for kQ8_0 a multiple of 32
  const void* next_k;     // keys of the run that is asked for next, which are brought near; may be nullptr
  const size_t* visible;  // [n_q]: query i sees the first visible[i] <= 64 positions of the run (may be 0)
  float cap;
  float* acc;         // [n_q][acc_stride]; what follows the d values of a row may change
  size_t acc_stride;  // at least d, a multiple of kAccMultiple
  float* sum;         // [n_q][kWeightSums], whose total is meant
};

struct KvKernels {
  // Vectors of n values by themselves, as they are saved: n values, or for kQ8_0 n / 32 blocks of GGUF's.
  void (*store)(const float* x, size_t n, void* out);  // rounds to nearest even
  void (*load)(const void* x, size_t n, float* out);
  void (*attend)(const AttendArgs& args);
};

struct KernelTable {
  const char* name;  // as in isa="avx512_vnni"
  const char* description;

  WeightKernels weights[kTensorTypeLimit];  // by TensorType number
  KvKernels kv[kKvTypes];                   // by KvType

  // x[k] f32 -> one activation row. k is a multiple of 32 for kBf16x3 and kQ8.
  void (*prepare)(ActivationFormat format, const float* x, size_t k, std::byte* out);

  // out = x * rsqrt(mean(x^2) + eps) * scale; out may be x.
  void (*rms_norm)(const float* x, const float* scale, size_t n, float eps, float* out);
  // out = gelu_tanh(gate) * up; out may be gate or up.
  void (*gelu_mul)(const float* gate, const float* up, size_t n, float* out);
  // acc += weight * x
  void (*axpy)(float weight, const float* x, size_t n, float* acc);
  // Half-split rotation of one head: [x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin], cos and sin [half].
  void (*rope)(float* x, const float* cos, const float* sin, size_t half);
  // Softmax in place, and log(sum(exp(x))).
  void (*softmax)(float* x, size_t n);
  double (*log_sum_exp)(const float* x, size_t n);

  // For limits.h. Reads every byte and returns a value that depends on all of them; `rounds` rounds of the
  // dot product for many tokens (of int8, on tiles of bfloat16) on registers alone, dot_macs_per_round
  // multiply-adds each, and a value that depends on them.
  uint64_t (*read)(const std::byte* data, size_t bytes);
  int32_t (*dot_rounds)(size_t rounds);
  size_t dot_macs_per_round;

  const WeightKernels& of(TensorType type) const { return weights[static_cast<size_t>(type)]; }
};

// Bytes of one activation row of k values, a multiple of 64.
size_t ActivationRowBytes(ActivationFormat format, size_t k);

}  // namespace pygrok
