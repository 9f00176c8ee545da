#include "model/kv_cache.h"

#include <cstring>
#include <stdexcept>

#include "kernels/blocks.h"

namespace pygrok {
namespace {

constexpr struct {
  const char* name;
  size_t values;  // in a block of
  size_t bytes;
} kFormats[] = {{"f32", 1, 4}, {"f16", 1, 2}, {"bf16", 1, 2}, {"q8_0", kBlockValues, sizeof(BlockQ8_0)}};
static_assert(std::size(kFormats) == kKvTypes);

constexpr size_t kGroupBytes = kKvBlockPositions * sizeof(BlockQ8_0);
constexpr size_t kCodesAt = kKvBlockPositions * sizeof(uint16_t);
constexpr size_t kPiece = 64;

// Where code i of a piece lies in it.
constexpr size_t PlaceOf(size_t i) { return i % 16 * 4 + i / 16; }

// Calls move.operator()<bytes>(place in the run, place in the vector) for all floats of a vector: float i
// lies at first + i * step of the run's.
template <size_t kBytes, typename Move>
void ForFloats(size_t head_size, size_t first, size_t step, const Move& move) {
  for (size_t i = 0; i < head_size; ++i)
    move.template operator()<kBytes>((first + i * step) * kBytes, i * kBytes);
}

// Calls `move` so for all pieces of a key at `position`.
template <typename Move>
void ForKey(KvType type, size_t head_size, size_t position, const Move& move) {
  switch (type) {
    case KvType::kF32:
      ForFloats<4>(head_size, position, kKvBlockPositions, move);
      break;
    case KvType::kF16:
    case KvType::kBf16:
      ForFloats<2>(head_size, position, kKvBlockPositions, move);
      break;
    case KvType::kQ8_0:
      for (size_t i = 0; i < head_size / kBlockValues; ++i) {
        const size_t group = i * kGroupBytes, block = i * sizeof(BlockQ8_0);
        move.template operator()<2>(group + 2 * position, block);
        for (size_t j = 0; j < kBlockValues; ++j) {
          move.template operator()<1>(group + kCodesAt + j * kPiece + PlaceOf(position), block + 2 + j);
        }
      }
      break;
  }
}

// The same for a value.
template <typename Move>
void ForValue(KvType type, size_t head_size, size_t position, const Move& move) {
  switch (type) {
    case KvType::kF32:
      ForFloats<4>(head_size, position * head_size, 1, move);
      break;
    case KvType::kF16:
    case KvType::kBf16:
      ForFloats<2>(head_size, position * head_size, 1, move);
      break;
    case KvType::kQ8_0:
      for (size_t i = 0; i < head_size / kBlockValues; ++i) {
        const size_t group = i * kGroupBytes, block = i * sizeof(BlockQ8_0);
        const size_t piece = group + kCodesAt + position / 2 * kPiece;
        move.template operator()<2>(group + 2 * position, block);
        for (size_t j = 0; j < kBlockValues; ++j) {
          move.template operator()<1>(piece + PlaceOf(position % 2 * kBlockValues + j), block + 2 + j);
        }
      }
      break;
  }
}

struct Put {
  const std::byte* vector;
  std::byte* run;
  template <size_t kBytes>
  void operator()(size_t in_run, size_t in_vector) const {
    std::memcpy(run + in_run, vector + in_vector, kBytes);
  }
};

struct Take {
  const std::byte* run;
  std::byte* vector;
  template <size_t kBytes>
  void operator()(size_t in_run, size_t in_vector) const {
    std::memcpy(vector + in_vector, run + in_run, kBytes);
  }
};

}  // namespace

size_t KvLayout::vector_bytes() const {
  const auto& t = kFormats[static_cast<size_t>(type)];
  return head_size / t.values * t.bytes;
}

void KvLayout::PutKey(const std::byte* vector, size_t position, std::byte* run) const {
  ForKey(type, head_size, position, Put{vector, run});
}
void KvLayout::PutValue(const std::byte* vector, size_t position, std::byte* run) const {
  ForValue(type, head_size, position, Put{vector, run});
}
void KvLayout::TakeKey(const std::byte* run, size_t position, std::byte* vector) const {
  ForKey(type, head_size, position, Take{run, vector});
}
void KvLayout::TakeValue(const std::byte* run, size_t position, std::byte* vector) const {
  ForValue(type, head_size, position, Take{run, vector});
}

KvType ParseKvType(const std::string& name) {
  for (size_t i = 0; i < std::size(kFormats); ++i) {
    if (name == kFormats[i].name) return static_cast<KvType>(i);
  }
  throw std::invalid_argument("kv_type '" + name + "' is unknown: choose f32, f16, bf16 or q8_0");
}

const char* KvTypeName(KvType type) { return kFormats[static_cast<size_t>(type)].name; }

void RequireHeadSize(KvType type, size_t head_size, const std::string& path) {
  const auto& t = kFormats[static_cast<size_t>(type)];
  if (head_size % t.values == 0) return;
  throw std::invalid_argument(path + ": kv_type '" + t.name + "' caches blocks of " +
                              std::to_string(t.values) + " values, the model's heads have " +
                              std::to_string(head_size) + ": choose f32, f16 or bf16");
}

KvBlock::KvBlock(size_t bytes, std::shared_ptr<MemoryLedger> ledger)
    : bytes_(bytes), ledger_(std::move(ledger)) {
  ledger_->Charge(bytes_, "a block of the KV cache");
  try {
    data_ = AlignedBuffer<std::byte>(bytes_);
  } catch (const std::bad_alloc&) {
    ledger_->Release(bytes_);
    throw MemoryLimit("the system has no memory for a KV cache block of " + std::to_string(bytes_) +
                      " bytes: use a shorter context or a smaller kv_type");
  }
}

KvBlock::~KvBlock() { ledger_->Release(bytes_); }

KvCache::KvCache(const KvCache& other)
    : layout_(other.layout_),
      ledger_(other.ledger_),
      blocks_(other.blocks_),
      block_count_(other.blocks_.size()),
      ids_(other.ids()),
      position_(other.position()) {}

std::vector<int32_t> KvCache::ids() const {
  std::lock_guard lock(ids_mutex_);
  return ids_;
}

void KvCache::Reserve(size_t count) {
  if (count == 0) return;
  const size_t begin = position();
  const size_t first = begin / kKvBlockPositions;
  const size_t needed = (begin + count + kKvBlockPositions - 1) / kKvBlockPositions;
  if (first < blocks_.size() && blocks_[first].use_count() > 1) {
    auto copy = std::make_shared<KvBlock>(layout_.block_bytes(), ledger_);
    std::memcpy(copy->data(), blocks_[first]->data(), layout_.block_bytes());
    blocks_[first] = std::move(copy);
  }
  while (blocks_.size() < needed) {
    blocks_.push_back(std::make_shared<KvBlock>(layout_.block_bytes(), ledger_));
    block_count_ = blocks_.size();
  }
}

void KvCache::Advance(std::span<const int32_t> ids) {
  std::lock_guard lock(ids_mutex_);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  position_ = ids_.size();
}

void KvCache::Swap(KvCache& other) {
  std::scoped_lock lock(ids_mutex_, other.ids_mutex_);
  blocks_.swap(other.blocks_);
  other.block_count_ = block_count_.exchange(other.block_count_.load());
  ids_.swap(other.ids_);
  other.position_ = position_.exchange(other.position());
}

void KvCache::Rewind(size_t position) {
  std::lock_guard lock(ids_mutex_);
  ids_.resize(position);
  position_ = position;
  blocks_.resize((position + kKvBlockPositions - 1) / kKvBlockPositions);
  block_count_ = blocks_.size();
}

}  // namespace pygrok
