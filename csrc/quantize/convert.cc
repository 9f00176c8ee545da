#include "quantize/convert.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "quantize/codec.h"
#include "util/aligned.h"
#include "util/error.h"

namespace pygrok {
namespace {

// A tile is kTileRows rows of the result by kTileColumns of their values, worked off in groups of rows. When
// turning, it reads kTileRows adjacent values from each of kTileColumns source rows: whole cache lines (32
// KiB of int8), and one memory page each, few enough for the second-level TLB, where the next tile finds them
// again. A group is 16 KiB of floats.
constexpr size_t kTileRows = 8 * kGroupRows;
constexpr size_t kTileColumns = 256;  // a multiple of every type's block size

constexpr size_t kQ8Values = 32;  // of a Q8_0 block

constexpr float kLeastImportance = 1e-3f;  // of the average column's

template <typename T>
T Load(const std::byte* data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

struct Int8 {
  static constexpr size_t kBytes = 1;
  static float Value(const std::byte* data, size_t i) { return static_cast<float>(Load<int8_t>(data, i)); }
};
struct F32 {
  static constexpr size_t kBytes = 4;
  static float Value(const std::byte* data, size_t i) { return Load<float>(data, i); }
};
struct Bf16 {
  static constexpr size_t kBytes = 2;
  static float Value(const std::byte* data, size_t i) {
    return std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(data, i)) << 16);
  }
};

struct F16 {
  static constexpr size_t kBytes = 2;
  // The bits, moved into place, mean 2^-112 of the value; infinity and NaN stay what they are.
  static float Value(const std::byte* data, size_t i) {
    const uint32_t bits = Load<uint16_t>(data, i);
    const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f);
    const uint32_t magnitude = (bits & 0x7c00u) == 0x7c00u ? finite | 0x7f800000u : finite;
    return std::bit_cast<float>(magnitude | (bits & 0x8000u) << 16);
  }
};

// Part of the result: at most kGroupRows rows of `columns` values, from (row, column) on.
struct Part {
  size_t row;
  size_t rows;
  size_t column;
  size_t columns;
};

// x[c][r] = source[column + c][row + r] * scale, where one group of scales covers all columns.
template <typename Source>
void TurnGroup(const SourceMatrix& source, const Part& part, float* x) {
  float scale[kGroupRows];
  const size_t group = source.scales == nullptr ? 0 : part.column / (source.rows / source.groups);
  for (size_t r = 0; r < part.rows; ++r) {
    scale[r] =
        source.scales == nullptr ? 1.0f : Bf16::Value(source.scales, group * source.columns + part.row + r);
  }
  constexpr size_t size = Source::kBytes;
  const std::byte* from = source.data + (part.column * source.columns + part.row) * size;
  if (part.rows == kGroupRows) {
    for (size_t c = 0; c < part.columns; ++c, from += source.columns * size, x += kGroupRows) {
      for (size_t r = 0; r < kGroupRows; ++r) x[r] = Source::Value(from, r) * scale[r];
    }
    return;
  }
  for (size_t c = 0; c < part.columns; ++c, from += source.columns * size, x += kGroupRows) {
    for (size_t r = 0; r < part.rows; ++r) x[r] = Source::Value(from, r) * scale[r];
  }
}

// The part's values as floats, interleaved as codecs want them; rows that the part does not have are left
// alone.
template <typename Source>
void FillGroup(const SourceMatrix& source, const Part& part, float* x) {
  if (!source.transpose) {
    for (size_t r = 0; r < part.rows; ++r) {
      const std::byte* from = source.data + ((part.row + r) * source.columns + part.column) * Source::kBytes;
      for (size_t c = 0; c < part.columns; ++c) x[c * kGroupRows + r] = Source::Value(from, c);
    }
    return;
  }
  const size_t group = source.scales == nullptr ? source.rows : source.rows / source.groups;
  for (size_t done = 0; done < part.columns;) {
    const size_t column = part.column + done;
    const size_t n = std::min(part.columns - done, group - column % group);
    TurnGroup<Source>(source, {part.row, part.rows, column, n}, x + done * kGroupRows);
    done += n;
  }
}

// The same for rows of blocks.
void FillFromBlocks(const SourceMatrix& source, const Part& part, float* x) {
  static const KernelTable& table = *SupportedTables().back();
  const size_t row_bytes = RowBytes(source.blocks, source.columns);
  float values[kTileColumns];
  for (size_t r = 0; r < part.rows; ++r) {
    const std::byte* from = source.data + (part.row + r) * row_bytes + RowBytes(source.blocks, part.column);
    table.of(source.blocks).dequantize(from, part.columns, values);
    for (size_t c = 0; c < part.columns; ++c) x[c * kGroupRows + r] = values[c];
  }
}

// The half of the same value as a bfloat16, if there is one: halves have more bits but a narrower range.
std::optional<uint16_t> ExactHalf(uint16_t bf16) {
  const uint32_t sign = bf16 & 0x8000u;
  const uint32_t mantissa = bf16 & 0x7fu;
  const int exponent = (bf16 >> 7 & 0xff) - 127;
  if ((bf16 & 0x7fff) == 0) return static_cast<uint16_t>(sign);
  if (exponent >= -14 && exponent <= 15) {
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent + 15) << 10 | mantissa << 3);
  }
  // A subnormal half counts in units of 2^-24; the bfloat16 is (128 + mantissa) * 2^(exponent - 7).
  const uint32_t significand = 0x80u | mantissa;
  const int shift = exponent + 17;
  if (exponent > 15 || exponent < -24) return std::nullopt;
  if (shift >= 0) return static_cast<uint16_t>(sign | significand << shift);
  if ((significand & ((1u << -shift) - 1)) != 0) return std::nullopt;
  return static_cast<uint16_t>(sign | significand >> -shift);
}

// Whether Q8_0 can hold the source's int8 values as they are: a group of scales covers whole blocks and every
// scale is a half too.
bool FitsQ8Exactly(const SourceMatrix& source, TensorType type) {
  if (type != TensorType::kQ8_0 || source.type != SourceType::kInt8 || source.scales == nullptr) return false;
  if (source.rows / source.groups % kQ8Values != 0) return false;
  for (size_t i = 0; i < source.groups * source.columns; ++i) {
    if (!ExactHalf(Load<uint16_t>(source.scales, i))) return false;
  }
  return true;
}

// x[c][r] are int8 multiples of scale[r]: stores just those, so that nothing of the source is lost.
void EncodeOnGrid(const float* x, size_t columns, size_t rows, const std::byte* scales, std::byte* out,
                  size_t stride) {
  float inverse[kGroupRows] = {};
  uint16_t halves[kGroupRows] = {};
  for (size_t r = 0; r < rows; ++r) {
    const float scale = Bf16::Value(scales, r);
    halves[r] = *ExactHalf(Load<uint16_t>(scales, r));
    inverse[r] = scale == 0.0f ? 0.0f : 1.0f / scale;
  }
  for (size_t c = 0; c < columns; c += kQ8Values, x += kQ8Values * kGroupRows) {
    int8_t values[kGroupRows][kQ8Values];
    for (size_t i = 0; i < kQ8Values; ++i) {
      for (size_t r = 0; r < kGroupRows; ++r) {
        values[r][i] = static_cast<int8_t>(std::lrintf(x[i * kGroupRows + r] * inverse[r]));
      }
    }
    for (size_t r = 0; r < rows; ++r) {
      std::byte* block = out + r * stride + RowBytes(TensorType::kQ8_0, c);
      std::memcpy(block, &halves[r], sizeof(uint16_t));
      std::memcpy(block + sizeof(uint16_t), values[r], kQ8Values);
    }
  }
}

using Fill = void (*)(const SourceMatrix&, const Part&, float*);

Fill FillFor(SourceType type) {
  switch (type) {
    case SourceType::kInt8:
      return FillGroup<Int8>;
    case SourceType::kF32:
      return FillGroup<F32>;
    case SourceType::kBf16:
      return FillGroup<Bf16>;
    case SourceType::kF16:
      return FillGroup<F16>;
    case SourceType::kBlocks:
      return FillFromBlocks;
  }
  throw std::invalid_argument("unknown source type");
}

void Check(const SourceMatrix& source, TensorType type, size_t first_row, size_t rows) {
  const size_t block = InfoOf(type).block_size;
  if (source.out_columns() == 0 || source.out_columns() % block != 0) {
    throw std::invalid_argument("rows of " + std::to_string(source.out_columns()) +
                                " values do not divide into " + InfoOf(type).name + " blocks of " +
                                std::to_string(block));
  }
  if (first_row > source.out_rows() || rows > source.out_rows() - first_row) {
    throw std::invalid_argument("rows " + std::to_string(first_row) + " to " +
                                std::to_string(first_row + rows) + " of a matrix with " +
                                std::to_string(source.out_rows()));
  }
  if (source.type == SourceType::kBlocks) {
    const TensorTypeInfo& info = InfoOf(source.blocks);
    if (source.transpose) throw std::invalid_argument("rows of blocks cannot be transposed");
    if (SupportedTables().back()->of(source.blocks).dequantize == nullptr) {
      throw ModelError(std::string("cannot read tensors of type ") + info.name);
    }
    if (source.columns % info.block_size != 0) {
      throw std::invalid_argument("rows of " + std::to_string(source.columns) + " values are not whole " +
                                  info.name + " blocks");
    }
  }
  if (source.scales == nullptr) return;
  if (!source.transpose) throw std::invalid_argument("scales belong to matrices stored [in, out]");
  if (source.groups == 0 || source.rows % source.groups != 0) {
    throw std::invalid_argument(std::to_string(source.rows) + " rows do not divide into " +
                                std::to_string(source.groups) + " groups of scales");
  }
}

}  // namespace

std::vector<float> UsableImportance(const float* importance, size_t n) {
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) {
    if (!(importance[i] >= 0.0f && importance[i] <= std::numeric_limits<float>::max())) {
      throw ModelError("importance of column " + std::to_string(i) + " is " + std::to_string(importance[i]) +
                       ", not a mean square; make the importance matrix anew with pygrok imatrix");
    }
    sum += static_cast<double>(importance[i]);
  }
  const double mean = sum / static_cast<double>(n);
  std::vector<float> usable(n, 1.0f);  // nothing was active: all columns count alike
  if (mean == 0.0) return usable;
  for (size_t i = 0; i < n; ++i) {
    usable[i] = std::max(static_cast<float>(static_cast<double>(importance[i]) / mean), kLeastImportance);
  }
  return usable;
}

void ConvertRows(ThreadPool& pool, const SourceMatrix& source, const Codec& codec, const float* importance,
                 size_t first_row, size_t rows, std::byte* out) {
  const TensorType type = codec.type;
  Check(source, type, first_row, rows);
  if (codec.needs_importance && importance == nullptr) {
    throw ModelError(std::string(InfoOf(type).name) +
                     " needs an importance matrix: make one with pygrok imatrix");
  }
  const size_t k = source.out_columns();
  std::vector<float> usable;
  if (importance != nullptr) usable = UsableImportance(importance, k);
  if (rows == 0) return;
  const Fill fill = FillFor(source.type);
  const bool exact = FitsQ8Exactly(source, type);
  const bool same = source.type == SourceType::kBlocks && source.blocks == type;
  const size_t group = exact ? source.rows / source.groups : 0;
  const size_t row_bytes = RowBytes(type, k);
  if (same) std::memcpy(out, source.data + first_row * row_bytes, rows * row_bytes);  // checked below

  // Small tensors are split finer, so that every thread has work.
  const size_t threads = static_cast<size_t>(pool.size());
  const size_t step = std::min(kTileRows, RoundUp((rows + threads - 1) / threads, kGroupRows));
  std::vector<AlignedBuffer<float>> buffers(threads);
  for (auto& buffer : buffers) {
    buffer = AlignedBuffer<float>(kGroupRows * kTileColumns);
    std::fill_n(buffer.data(), buffer.size(), 0.0f);  // rows that a group lacks are checked too
  }

  pool.Run((rows + step - 1) / step, [&](size_t index, size_t worker) {
    float* const x = buffers[worker].data();
    const size_t begin = index * step;
    const size_t end = std::min(begin + step, rows);
    for (size_t column = 0, columns = 0; column < k; column += columns) {
      columns = std::min(kTileColumns, k - column);
      if (exact) columns = std::min(columns, group - column % group);
      for (size_t row = begin; row < end; row += kGroupRows) {
        const size_t count = std::min(kGroupRows, end - row);
        fill(source, {first_row + row, count, column, columns}, x);
        if (!exact && !AllWithin(x, columns * kGroupRows, codec.max_abs)) ThrowDoesNotFit(codec);
        std::byte* const to = out + row * row_bytes + RowBytes(type, column);
        if (exact) {
          const size_t first_scale = column / group * source.columns + first_row + row;
          EncodeOnGrid(x, columns, count, source.scales + first_scale * Bf16::kBytes, to, row_bytes);
        } else if (!same) {
          codec.encode({.x = x,
                        .n = columns,
                        .rows = count,
                        .importance = usable.empty() ? nullptr : usable.data() + column,
                        .out = to,
                        .stride = row_bytes});
        }
      }
    }
  });
}

}  // namespace pygrok
