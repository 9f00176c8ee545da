// Encoders: float rows to the blocks of a tensor type. codec.cc picks by type and instruction set; the types
// themselves live in families (codec_plain.cc, codec_k.cc, codec_codebook.cc).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "io/tensor_type.h"

namespace pygrok {

// Encoders work on kGroupRows rows at a time, interleaved: value i of row r stands at x[i * kGroupRows + r].
inline constexpr size_t kGroupRows = 16;

struct EncodeArgs {
  const float* x;  // [n][kGroupRows]
  size_t n;        // values of each row: a multiple of the type's block size
  size_t rows;     // how many of the kGroupRows rows there are
  // [n] mean squared activation of each column, > 0, any scale; nullptr: all alike.
  const float* importance;
  std::byte* out;  // row r's blocks start at out + r * stride
  size_t stride;   // in bytes
};

// Error-compensated rounding (GPTQ, arXiv 2210.17323; LDLQ, arXiv 2307.13304) of one block of each row.
struct CompensateArgs {
  const float* x;  // [block][kGroupRows], already minus the feedback of all columns before the block
  // Rows of U, the upper Cholesky factor of the inverse Hessian (H^-1 = U^T U), at this block's place on the
  // diagonal: U_ij = factor[i * factor_stride + j], j >= i.
  const float* factor;
  size_t factor_stride;  // in floats
  size_t rows;
  std::byte* out;
  size_t stride;
  // [block][kGroupRows]: e_i = (x_i - q_i) / U_ii, x_i with the feedback of all columns before i. The caller
  // subtracts sum_i e_i * U_ij from every column j after the block.
  float* error;
};

struct Codec {
  TensorType type;
  float max_abs;  // the largest magnitude that the type holds; larger values and NaN must not get here
  bool needs_importance;  // too few bits to spend them evenly: refused without an importance matrix
  // The bytes of a block depend on its own values and importance alone, and are the same on every processor.
  void (*encode)(const EncodeArgs& args);
  void (*compensate)(const CompensateArgs& args);  // nullptr for f32, f16 and bf16
};

// The encoders are compiled once for each of these; all give the same bytes.
enum class CodecIsa { kBaseline, kAvx2, kAvx512 };

// The best one that this processor runs.
CodecIsa BestCodecIsa();
// "baseline", "avx2", "avx512", or "" for the best. Throws std::invalid_argument, listing the choices.
CodecIsa CodecIsaNamed(std::string_view name);

// Throws ModelError, listing the choices, for a type that cannot be written.
const Codec& CodecOf(TensorType type, CodecIsa isa = BestCodecIsa());

// True if every one of n values, a multiple of kGroupRows, lies within +-limit: false for NaN and infinity
// too.
bool AllWithin(const float* x, size_t n, float limit);

// Throws the ModelError that says that some value does not fit the type, or is not a number.
[[noreturn]] void ThrowDoesNotFit(const Codec& codec);

// The families.
std::span<const Codec> PlainCodecs(CodecIsa isa);     // floats and blocks of 32
std::span<const Codec> KCodecs(CodecIsa isa);         // super-blocks of 256 with linear codes, and IQ4_XS
std::span<const Codec> CodebookCodecs(CodecIsa isa);  // IQ2_* and IQ3_*

}  // namespace pygrok
