// Counts the memory that an engine allocates, against a limit.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>

#include "util/error.h"

namespace pygrok {

class MemoryLedger {
 public:
  explicit MemoryLedger(size_t limit) : limit_(limit) {}  // 0 = no limit

  size_t used() const { return used_.load(); }

  // Throws MemoryLimit, changing nothing, if `bytes` more do not fit; `what` names them for the message.
  void Charge(size_t bytes, const char* what) {
    const size_t used = used_.fetch_add(bytes) + bytes;
    if (limit_ != 0 && used > limit_) {
      used_ -= bytes;
      throw MemoryLimit(std::string(what) + " of " + std::to_string(bytes) + " bytes would bring memory to " +
                        std::to_string(used) + " of the " + std::to_string(limit_) +
                        " allowed: raise memory_limit, or use a shorter context or a smaller kv_type");
    }
  }
  void Release(size_t bytes) { used_ -= bytes; }

 private:
  const size_t limit_;
  std::atomic<size_t> used_{0};
};

}  // namespace pygrok
