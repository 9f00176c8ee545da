// Keys and values of past positions, in reference-counted blocks that sessions share until one writes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "model/config.h"
#include "util/aligned.h"
#include "util/memory_ledger.h"

namespace pygrok {

// Where things lie in a block: [layer][kv_head][K, V], each a run of kKvBlockPositions as kernel_table.h lays
// it out. A vector is one head's key or value at one position, as KvKernels::store makes it.
struct KvLayout {
  KvType type;
  size_t layers;
  size_t kv_heads;
  size_t head_size;  // fits the type: see RequireHeadSize

  size_t vector_bytes() const;
  size_t run_bytes() const { return kKvBlockPositions * vector_bytes(); }
  size_t block_bytes() const { return layers * kv_heads * 2 * run_bytes(); }
  size_t key_offset(size_t layer, size_t head) const { return (layer * kv_heads + head) * 2 * run_bytes(); }
  size_t value_offset(size_t layer, size_t head) const { return key_offset(layer, head) + run_bytes(); }

  // Copies a vector into the run at a position below kKvBlockPositions, or out of it.
  void PutKey(const std::byte* vector, size_t position, std::byte* run) const;
  void PutValue(const std::byte* vector, size_t position, std::byte* run) const;
  void TakeKey(const std::byte* run, size_t position, std::byte* vector) const;
  void TakeValue(const std::byte* run, size_t position, std::byte* vector) const;

  bool operator==(const KvLayout&) const = default;
};

// Throws std::invalid_argument if the heads of the model at `path` cannot be cached so.
void RequireHeadSize(KvType type, size_t head_size, const std::string& path);

// Names as in kv_type="f16". Throws std::invalid_argument, listing the choices.
KvType ParseKvType(const std::string& name);
const char* KvTypeName(KvType type);

class KvBlock {
 public:
  // Throws MemoryLimit. Charges the ledger for as long as the block lives.
  KvBlock(size_t bytes, std::shared_ptr<MemoryLedger> ledger);
  ~KvBlock();
  KvBlock(const KvBlock&) = delete;
  KvBlock& operator=(const KvBlock&) = delete;

  std::byte* data() const { return data_.data(); }

 private:
  const size_t bytes_;
  const std::shared_ptr<MemoryLedger> ledger_;
  AlignedBuffer<std::byte> data_;
};

// One sequence: its tokens and their cache. The engine serializes calls; only position(), ids() and bytes()
// may be called at any time.
class KvCache {
 public:
  KvCache(const KvLayout& layout, std::shared_ptr<MemoryLedger> ledger)
      : layout_(layout), ledger_(std::move(ledger)) {}
  KvCache(const KvCache& other);  // shares all blocks
  KvCache& operator=(const KvCache&) = delete;

  const KvLayout& layout() const { return layout_; }
  size_t position() const { return position_.load(); }
  std::vector<int32_t> ids() const;  // [position]
  size_t bytes() const { return block_count_.load() * layout_.block_bytes(); }
  std::byte* block(size_t index) const { return blocks_[index]->data(); }

  // Makes positions [position, position + count) writable: allocates blocks, copies a shared one. On an
  // exception nothing has changed but memory.
  void Reserve(size_t count);
  // After Reserve: the positions now hold the keys and values of these tokens.
  void Advance(std::span<const int32_t> ids);
  // Takes the past of `other`, of the same layout, and gives it this one's.
  void Swap(KvCache& other);
  // Forgets everything from `position` on, and blocks reserved beyond it. position <= position().
  void Rewind(size_t position);

 private:
  const KvLayout layout_;
  const std::shared_ptr<MemoryLedger> ledger_;
  std::vector<std::shared_ptr<KvBlock>> blocks_;
  std::atomic<size_t> block_count_{0};  // blocks_.size()
  mutable std::mutex ids_mutex_;
  std::vector<int32_t> ids_;
  std::atomic<size_t> position_{0};  // ids_.size(), for readers that do not wait
};

}  // namespace pygrok
