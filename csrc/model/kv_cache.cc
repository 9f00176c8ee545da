#include "model/kv_cache.h"

#include <cstring>
#include <stdexcept>

namespace pygrok {
namespace {

constexpr struct {
  const char* name;
  size_t bytes;
} kKvTypes[] = {{"f32", 4}, {"f16", 2}, {"bf16", 2}};  // by KvType

}  // namespace

size_t KvLayout::vector_bytes() const { return head_size * kKvTypes[static_cast<size_t>(type)].bytes; }

KvType ParseKvType(const std::string& name) {
  for (size_t i = 0; i < std::size(kKvTypes); ++i) {
    if (name == kKvTypes[i].name) return static_cast<KvType>(i);
  }
  throw std::invalid_argument("kv_type '" + name + "' is unknown: choose f32, f16 or bf16");
}

const char* KvTypeName(KvType type) { return kKvTypes[static_cast<size_t>(type)].name; }

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
  while (blocks_.size() < needed)
    blocks_.push_back(std::make_shared<KvBlock>(layout_.block_bytes(), ledger_));
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
