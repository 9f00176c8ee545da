// Mapped pages that cannot be read. When a mapped file is cut short, or its disk fails, the system answers
// the next access with SIGBUS, whose default is the end of the process. Here that access reads zeros instead,
// and the range is marked, so that who computes on it can throw before any result leaves.
#pragma once

#include <cstddef>
#include <span>

namespace pygrok {

// Puts the library's SIGBUS handler in place if it is not, and unblocks the signal in this thread. Faults
// elsewhere go to the handler that was there before. Call before reading guarded memory: others, such as
// Python's faulthandler, may have installed theirs since. Two system calls; never fails.
void EnsureFaultHandler() noexcept;

// Guards a read-only mapping that begins on a page. Destroy it before the memory is unmapped.
class GuardedRange {
 public:
  GuardedRange() = default;
  // Throws std::bad_alloc.
  explicit GuardedRange(std::span<const std::byte> bytes);
  ~GuardedRange();
  GuardedRange(GuardedRange&& other) noexcept;
  GuardedRange& operator=(GuardedRange&& other) noexcept;
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;

  // Whether a page could not be read. From the first such page on, the range then reads as zeros for good.
  bool broken() const;

 private:
  struct Record;
  friend struct FaultRegistry;
  Record* record_ = nullptr;
};

}  // namespace pygrok
