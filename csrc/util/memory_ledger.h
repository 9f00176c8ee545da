// Counts the memory that an engine uses, against a limit.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "util/error.h"

namespace pygrok {

class MemoryLedger {
 public:
  explicit MemoryLedger(size_t limit) : limit_(limit) {}  // 0 = no limit

  size_t limit() const { return limit_; }
  size_t used() const { return used_.load(); }
  size_t left() const { return limit_ == 0 ? SIZE_MAX : limit_ - std::min(limit_, used()); }

  // Where memory runs short, `reclaim(bytes)` is asked to give up that much, and releases what it gives. It
  // runs in the thread that charges.
  void SetReclaim(std::function<void(size_t bytes)> reclaim) { reclaim_ = std::move(reclaim); }

  // Throws MemoryLimit, changing nothing, if `bytes` more do not fit; `what` names them for the message.
  void Charge(size_t bytes, const char* what) {
    if (reclaim_ && bytes > left()) reclaim_(bytes - left());
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
  std::function<void(size_t)> reclaim_;
};

}  // namespace pygrok
