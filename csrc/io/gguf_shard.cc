#include "io/gguf_shard.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "io/gguf_cursor.h"
#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;
constexpr size_t kReserveLimit = 65536;  // beyond that, memory grows only with what the file really holds
constexpr size_t kMinEntryBytes = 8 + 1 + 4 + 1;           // key length, key, type, value
constexpr size_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, rank, dimension, type, offset

uint32_t ReadHeader(GgufCursor& cursor) {
  const std::byte* magic = cursor.Take(4, "magic");
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    const std::string_view found(reinterpret_cast<const char*>(magic), 4);
    cursor.Fail(0, "magic",
                "is " + Quoted(found) + ", not \"GGUF\": this is not a GGUF file (or a damaged download)");
  }
  const uint32_t version = cursor.Read<uint32_t>("version");
  if (version != 0 && (version & 0xFFFF) == 0) {
    cursor.Fail(4, "version",
                "is byte-swapped: this is a big-endian file: convert the model for little-endian machines");
  }
  if (version != 2 && version != 3) {
    cursor.Fail(
        4, "version",
        "is " + std::to_string(version) +
            ", this library reads 2 and 3: convert the model again with a converter that writes version 3");
  }
  return version;
}

// Bytes of one value; 0 for strings and arrays, whose size varies, and for numbers that the format does not
// define.
size_t ValueBytes(uint32_t type) {
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return 0;
  }
  return 0;
}

void CheckBools(const GgufCursor& cursor, size_t offset, const std::byte* data, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (static_cast<uint8_t>(data[i]) > 1) {
      cursor.Fail(offset + i, "bool", "is " + std::to_string(static_cast<int>(data[i])) + ", must be 0 or 1");
    }
  }
}

GgufArray ReadArray(GgufCursor& cursor) {
  const size_t type_offset = cursor.offset();
  const uint32_t type = cursor.Read<uint32_t>("array element type");
  const bool strings = type == static_cast<uint32_t>(GgufValueType::kString);
  if (type == static_cast<uint32_t>(GgufValueType::kArray)) {
    cursor.Fail(type_offset, "array element type", "is an array: nested arrays are not supported");
  }
  const size_t element = strings ? sizeof(uint64_t) : ValueBytes(type);
  if (element == 0)
    cursor.Fail(type_offset, "array element type", "is " + std::to_string(type) + ", not defined");
  GgufArray array;
  array.type = static_cast<GgufValueType>(type);
  array.count = cursor.ReadCount("array length", element);
  array.data = cursor.here();
  const size_t start = cursor.offset();
  if (strings) {
    for (uint64_t i = 0; i < array.count; ++i) cursor.ReadString("string in array");
  } else {
    cursor.Take(array.count * element, "array");
    if (array.type == GgufValueType::kBool) CheckBools(cursor, start, array.data, array.count);
  }
  array.bytes = cursor.offset() - start;
  return array;
}

GgufValue ReadValue(GgufCursor& cursor) {
  const size_t type_offset = cursor.offset();
  const uint32_t type = cursor.Read<uint32_t>("type");
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::kUint8:
      return uint64_t{cursor.Read<uint8_t>("value")};
    case GgufValueType::kInt8:
      return int64_t{cursor.Read<int8_t>("value")};
    case GgufValueType::kUint16:
      return uint64_t{cursor.Read<uint16_t>("value")};
    case GgufValueType::kInt16:
      return int64_t{cursor.Read<int16_t>("value")};
    case GgufValueType::kUint32:
      return uint64_t{cursor.Read<uint32_t>("value")};
    case GgufValueType::kInt32:
      return int64_t{cursor.Read<int32_t>("value")};
    case GgufValueType::kUint64:
      return cursor.Read<uint64_t>("value");
    case GgufValueType::kInt64:
      return cursor.Read<int64_t>("value");
    case GgufValueType::kFloat32:
      return double{cursor.Read<float>("value")};
    case GgufValueType::kFloat64:
      return cursor.Read<double>("value");
    case GgufValueType::kString:
      return cursor.ReadString("value");
    case GgufValueType::kArray:
      return ReadArray(cursor);
    case GgufValueType::kBool: {
      const size_t offset = cursor.offset();
      const std::byte* value = cursor.Take(1, "value");
      CheckBools(cursor, offset, value, 1);
      return *value != std::byte{0};
    }
  }
  cursor.Fail(type_offset, "type",
              "is " + std::to_string(type) + ", not defined: the file is damaged or newer than this library");
}

void ReadMetadata(GgufCursor& cursor, uint64_t count, GgufMetadata& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    cursor.EnterItem("metadata key", i, count);
    const size_t start = cursor.offset();
    const std::string_view key = cursor.ReadName("name");
    cursor.NameItem(key);
    if (!metadata.Add(key, start, ReadValue(cursor))) cursor.Fail(start, "name", "occurs twice");
  }
  cursor.LeaveItem();
}

uint64_t AlignmentOf(const GgufMetadata& metadata) {
  const uint64_t alignment = metadata.Uint("general.alignment").value_or(kDefaultAlignment);
  if (alignment < 8 || alignment > UINT32_MAX || !std::has_single_bit(alignment)) {
    metadata.Fail("general.alignment",
                  "is " + std::to_string(alignment) + ", must be a power of two from 8 to 2147483648");
  }
  return alignment;
}

// The shape and the size that follows from it. Every product is checked: values, then bytes.
void ReadShape(GgufCursor& cursor, GgufTensor& tensor) {
  const size_t rank_offset = cursor.offset();
  const uint32_t rank = cursor.Read<uint32_t>("number of dimensions");
  if (rank < 1 || rank > kMaxDimensions) {
    cursor.Fail(rank_offset, "number of dimensions", "is " + std::to_string(rank) + ", must be 1 to 4");
  }
  const size_t shape_offset = cursor.offset();
  size_t values = 1;
  tensor.shape.resize(rank);
  for (uint32_t i = 0; i < rank; ++i) {
    const uint64_t dimension = cursor.Read<uint64_t>("dimension");
    if (dimension == 0) cursor.Fail(cursor.offset() - 8, "dimension", "is 0");
    if (__builtin_mul_overflow(values, dimension, &values)) {
      cursor.Fail(shape_offset, "dimensions",
                  "have a product beyond 64 bits: the file is damaged: download it again");
    }
    tensor.shape[rank - 1 - i] = dimension;
  }

  const size_t type_offset = cursor.offset();
  const uint32_t number = cursor.Read<uint32_t>("type");
  const TensorTypeInfo* type = FindTensorType(number);
  if (type == nullptr) {
    cursor.Fail(type_offset, "type",
                "is " + std::to_string(number) +
                    ", which this library does not know: the file is damaged, or its type " +
                    "is too new or was removed from the format: convert the model again to another type");
  }
  tensor.type = type->type;
  if (tensor.columns() % type->block_size != 0) {
    cursor.Fail(shape_offset, "row length",
                "is " + std::to_string(tensor.columns()) + ", not a multiple of the " +
                    std::to_string(type->block_size) + " values in a block of " + type->name);
  }
  if (__builtin_mul_overflow(values / type->block_size, type->block_bytes, &tensor.bytes)) {
    cursor.Fail(shape_offset, "dimensions",
                "have a product beyond 64 bits: the file is damaged: download it again");
  }
}

// Reads the tensor table; `offset` is still relative to the data section, which starts behind the table.
std::vector<GgufTensor> ReadTensors(GgufCursor& cursor, uint64_t count, uint64_t alignment, size_t shard) {
  std::vector<GgufTensor> tensors;
  tensors.reserve(std::min<uint64_t>(count, kReserveLimit));
  for (uint64_t i = 0; i < count; ++i) {
    cursor.EnterItem("tensor", i, count);
    GgufTensor& tensor = tensors.emplace_back();
    const std::string_view name = cursor.ReadName("name");
    cursor.NameItem(name);
    tensor.name = name;
    tensor.shard = shard;
    ReadShape(cursor, tensor);
    const size_t at = cursor.offset();
    tensor.offset = cursor.Read<uint64_t>("offset");
    if (tensor.offset % alignment != 0) {
      cursor.Fail(at, "offset",
                  "is " + std::to_string(tensor.offset) + ", not a multiple of the alignment " +
                      std::to_string(alignment));
    }
  }
  cursor.LeaveItem();
  return tensors;
}

std::string About(const MappedFile& file, size_t offset, const GgufTensor& tensor) {
  return Printable(file.path()) + ": byte " + std::to_string(offset) + ": tensor " + Quoted(tensor.name) +
         ": ";
}

// Turns relative offsets into places in the file; every tensor lies inside it and none over another.
void PlaceTensors(const MappedFile& file, size_t table_end, uint64_t alignment,
                  std::vector<GgufTensor>& tensors) {
  if (tensors.empty()) return;
  const uint64_t data_start = (table_end + alignment - 1) / alignment * alignment;
  const size_t data_bytes = file.size() > data_start ? file.size() - data_start : 0;
  for (GgufTensor& tensor : tensors) {
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
      throw FormatError(About(file, data_start, tensor) + "data takes " + std::to_string(tensor.bytes) +
                        " bytes at offset " + std::to_string(tensor.offset) + " of a data section of " +
                        std::to_string(data_bytes) +
                        " bytes: the file is truncated or damaged: download it again");
    }
    tensor.offset += data_start;
    tensor.data = file.data() + tensor.offset;
  }
  std::vector<const GgufTensor*> sorted;
  sorted.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const GgufTensor& before = *sorted[i - 1];
    if (before.offset + before.bytes > sorted[i]->offset) {
      throw FormatError(About(file, sorted[i]->offset, *sorted[i]) + "data overlaps that of tensor " +
                        Quoted(before.name) + ", which ends at byte " +
                        std::to_string(before.offset + before.bytes) +
                        ": the file is damaged: download it again");
    }
  }
}

}  // namespace

GgufShard ParseGgufShard(const MappedFile& file, size_t index) {
  GgufCursor cursor(file);
  GgufShard shard{ReadHeader(cursor), GgufMetadata(file.path()), {}};
  const uint64_t tensor_count = cursor.ReadCount("tensor count", kMinTensorBytes);
  const uint64_t entry_count = cursor.ReadCount("metadata count", kMinEntryBytes);
  ReadMetadata(cursor, entry_count, shard.metadata);
  const uint64_t alignment = AlignmentOf(shard.metadata);
  shard.tensors = ReadTensors(cursor, tensor_count, alignment, index);
  PlaceTensors(file, cursor.offset(), alignment, shard.tensors);
  return shard;
}

}  // namespace pygrok
