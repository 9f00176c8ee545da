// Threads that share out index ranges. One pool belongs to one engine.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pygrok {

class ThreadPool {
 public:
  // `threads` counts the caller, which works too; 1 starts none. Throws std::system_error.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }

  // Calls body(index, worker) once for every index below `count`, worker < size(), and returns when all are
  // done. Indices are handed out one by one in rising order, so a slow core holds nobody up; which worker
  // gets which index varies, so results must not depend on it. The first exception that a body throws is
  // rethrown here, the indices not yet started are skipped. One Run at a time; not from inside a body.
  // Throws ModelError in a process forked after the pool was made: threads do not survive a fork.
  using Body = std::function<void(size_t index, size_t worker)>;
  void Run(size_t count, const Body& body);

 private:
  // What workers touch. On the heap, since a forked child must leave it alone: it can neither join threads
  // nor destroy a condition variable that others wait for, which exist in the parent only.
  struct Shared {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> round{0};  // number of the latest round; a change wakes the workers
    std::atomic<bool> open{false};   // the round takes workers in
    std::atomic<int> inside{0};      // workers that have entered and not left
    std::atomic<size_t> next{0};
    size_t count = 0;
    const Body* body = nullptr;
    std::exception_ptr error;
  };

  static void Work(Shared& shared, size_t worker);
  static void Drain(Shared& shared, size_t worker);
  static void Stop(Shared& shared);

  const int threads_;
  const int pid_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace pygrok
