#include "io/slot_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "util/error.h"

namespace pygrok {

SlotPool::SlotPool(size_t slots, size_t slot_bytes)
    : slot_bytes_(slot_bytes), bytes_(slots * slot_bytes), pid_(getpid()) {
  if (bytes_ == 0) return;
  void* const data =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw MemoryLimit("the system has no addresses for " + std::to_string(bytes_) +
                      " bytes of experts: lower memory_limit");
  }
  data_ = static_cast<std::byte*>(data);
  // Fewer, longer runs of memory for the disk to write to.
  madvise(data, bytes_, MADV_HUGEPAGE);
  // A fork during a direct read could leave the page's new bytes with the child.
  madvise(data, bytes_, MADV_DONTFORK);
}

SlotPool::~SlotPool() {
  if (data_ != nullptr && getpid() == pid_) munmap(data_, bytes_);
}

void SlotPool::Empty(size_t index) const {
  if (data_ != nullptr) madvise(slot(index), slot_bytes_, MADV_DONTNEED);
}

}  // namespace pygrok
