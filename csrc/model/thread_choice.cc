#include "model/thread_choice.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>

#include "util/thread_pool.h"

namespace pygrok {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPasses = 3;  // the best counts: a neighbour may disturb one
constexpr double kPassSeconds = 0.002;
constexpr size_t kRoundsOfTask = 500;
constexpr double kWorthwhile = 1.1;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Rounds per second of a region as long as those of a model, its end awaited like theirs.
double RateWith(const KernelTable& kernels, int threads) {
  ThreadPool pool(threads);
  std::atomic<int32_t> sink{0};
  auto run = [&](size_t tasks) {
    const Clock::time_point start = Clock::now();
    pool.Run(tasks, [&](size_t, size_t) {
      sink.fetch_xor(kernels.int8_rounds(kRoundsOfTask), std::memory_order_relaxed);
    });
    return static_cast<double>(tasks) / SecondsSince(start);
  };
  const double once = run(static_cast<size_t>(threads));  // starts the threads and the vector units
  const auto tasks = std::max(static_cast<size_t>(once * kPassSeconds), static_cast<size_t>(threads) * 4);
  double best = 0.0;
  for (int pass = 0; pass < kPasses; ++pass) best = std::max(best, run(tasks));
  return best;
}

int Measure(const KernelTable& kernels, int cpus) {
  int best = cpus;
  double best_rate = RateWith(kernels, cpus);
  for (int fewer = cpus / 2; fewer >= 1; fewer /= 2) {
    const double rate = RateWith(kernels, fewer);
    if (rate * kWorthwhile < best_rate) break;
    best = fewer;
    best_rate = std::max(rate, best_rate);
  }
  return best;
}

}  // namespace

int FastestThreadCount(const KernelTable& kernels, int cpus) {
  static std::mutex mutex;
  static std::map<int, int> known;  // by number of processors, which a process may change
  if (cpus <= 1) return 1;
  const std::lock_guard lock(mutex);
  const auto found = known.find(cpus);
  if (found != known.end()) return found->second;
  return known[cpus] = Measure(kernels, cpus);
}

}  // namespace pygrok
