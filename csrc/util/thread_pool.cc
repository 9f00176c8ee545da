#include "util/thread_pool.h"

#include <unistd.h>

#include <algorithm>

#include "util/fork.h"

namespace pygrok {
namespace {

// Rounds follow each other within microseconds while a model computes; a worker that sleeps costs tens to
// wake. After the first spins it lets others have the processor between looks: with more threads than
// processors, the one that is waited for may be among them.
constexpr int kSpins = 1000;
constexpr int kEagerSpins = 200;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline void SpinOnce(int spins) {
  if (spins < kEagerSpins) {
    Pause();
  } else {
    std::this_thread::yield();
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : threads_(std::max(1, threads)), pid_(getpid()), shared_(std::make_unique<Shared>()) {
  try {
    for (int i = 1; i < threads_; ++i) {
      shared_->workers.emplace_back([shared = shared_.get(), i] { Work(*shared, static_cast<size_t>(i)); });
    }
  } catch (...) {
    Stop(*shared_);  // the destructor does not run for an object that was never made
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() == pid_) {
    Stop(*shared_);
  } else {
    (void)shared_.release();
  }
}

void ThreadPool::Stop(Shared& shared) {
  {
    std::lock_guard lock(shared.mutex);
    shared.stop = true;
  }
  shared.wake.notify_all();
  for (std::thread& worker : shared.workers) worker.join();
}

void ThreadPool::Run(size_t count, const Body& body) {
  if (threads_ == 1 || count <= 1) {
    for (size_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  RefuseForked(pid_);
  Shared& shared = *shared_;
  shared.count = count;
  shared.body = &body;
  shared.error = nullptr;
  shared.next = 0;
  shared.open = true;
  {
    std::lock_guard lock(shared.mutex);
    ++shared.round;
  }
  shared.wake.notify_all();
  Drain(shared, 0);
  // A worker first counts itself in, then looks whether the round is open; we close it, then look at the
  // count. So either it sees the door closed or we see it inside, and a worker that is still asleep is not
  // waited for.
  shared.open = false;
  for (int spins = 0; shared.inside.load() != 0; ++spins) SpinOnce(spins);
  if (shared.error) {
    std::exception_ptr error;
    std::swap(error, shared.error);
    std::rethrow_exception(error);
  }
}

void ThreadPool::Drain(Shared& shared, size_t worker) {
  for (size_t i = shared.next.fetch_add(1); i < shared.count; i = shared.next.fetch_add(1)) {
    try {
      (*shared.body)(i, worker);
    } catch (...) {
      std::lock_guard lock(shared.mutex);
      if (!shared.error) shared.error = std::current_exception();
      shared.next = shared.count;
    }
  }
}

void ThreadPool::Work(Shared& shared, size_t worker) {
  uint64_t seen = 0;
  auto called = [&] { return shared.round.load() != seen || shared.stop.load(); };
  while (true) {
    for (int spins = 0; !called() && spins < kSpins; ++spins) SpinOnce(spins);
    if (!called()) {
      std::unique_lock lock(shared.mutex);
      shared.wake.wait(lock, called);
    }
    if (shared.stop.load()) return;
    seen = shared.round.load();
    ++shared.inside;
    if (shared.open.load()) Drain(shared, worker);
    --shared.inside;
  }
}

}  // namespace pygrok
