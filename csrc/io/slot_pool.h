// Anonymous memory in slots of one size.
#pragma once

#include <cstddef>

namespace pygrok {

class SlotPool {
 public:
  // Reserves addresses; memory comes when a slot is first written. Throws MemoryLimit.
  SlotPool(size_t slots, size_t slot_bytes);
  ~SlotPool();
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;

  size_t slot_bytes() const { return slot_bytes_; }
  // On a page. nullptr if slots have no memory (slot_bytes 0).
  std::byte* slot(size_t index) const { return data_ == nullptr ? nullptr : data_ + index * slot_bytes_; }
  // Gives the slot's memory back to the system.
  void Empty(size_t index) const;

 private:
  const size_t slot_bytes_;
  const size_t bytes_;
  const int pid_;
  std::byte* data_ = nullptr;
};

}  // namespace pygrok
