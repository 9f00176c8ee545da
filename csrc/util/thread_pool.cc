#include "util/thread_pool.h"

#include <unistd.h>

#include <string>

#include "util/error.h"

namespace pygrok {
namespace {

// Rounds follow each other within microseconds while a model computes; a worker that sleeps costs tens to
// wake.
constexpr int kSpins = 4000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : pid_(getpid()) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Work(static_cast<size_t>(i)); });
  } catch (...) {
    // The destructor does not run for an object that was never made.
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != pid_) {
    for (std::thread& worker : workers_) worker.detach();  // they exist in the parent only
    return;
  }
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t count, const Body& body) {
  if (workers_.empty() || count <= 1) {
    for (size_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  if (getpid() != pid_) {
    throw ModelError(
        "this model was loaded before a fork and its threads stayed behind: load it in the child");
  }
  count_ = count;
  body_ = &body;
  error_ = nullptr;
  next_ = 0;
  open_ = true;
  {
    std::lock_guard lock(mutex_);
    ++round_;
  }
  wake_.notify_all();
  Drain(0);
  // A worker first counts itself in, then looks whether the round is open; we close it, then look at the
  // count. So either it sees the door closed or we see it inside, and a worker that is still asleep is not
  // waited for.
  open_ = false;
  for (int spins = 0; inside_.load() != 0; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) {
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

void ThreadPool::Drain(size_t worker) {
  for (size_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
    try {
      (*body_)(i, worker);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = count_;
    }
  }
}

void ThreadPool::Work(size_t worker) {
  uint64_t seen = 0;
  while (true) {
    for (int spins = 0; round_.load() == seen && !stop_.load() && spins < kSpins; ++spins) Pause();
    if (round_.load() == seen && !stop_.load()) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return round_.load() != seen || stop_.load(); });
    }
    if (stop_.load()) return;
    seen = round_.load();
    ++inside_;
    if (open_.load()) Drain(worker);
    --inside_;
  }
}

}  // namespace pygrok
