#include "model/thread_choice.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <numeric>
#include <vector>

#include "util/thread_pool.h"

namespace pygrok {
namespace {

constexpr int kPasses = 3;  // the best counts
constexpr size_t kTasksOfThread = 8;
constexpr size_t kRoundsOfTask = 500;
constexpr double kWorthwhile = 1.1;

double ThreadSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// What so many threads compute together. Each is timed by the processor time it got: what other programs take
// at the moment says nothing about the machine.
double RateWith(const KernelTable& kernels, int threads) {
  ThreadPool pool(threads);
  std::atomic<int32_t> sink{0};
  const size_t tasks = static_cast<size_t>(threads) * kTasksOfThread;
  std::vector<double> seconds(tasks);
  double best = 0.0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    pool.Run(tasks, [&](size_t task, size_t) {
      const double start = ThreadSeconds();
      sink.fetch_xor(kernels.dot_rounds(kRoundsOfTask), std::memory_order_relaxed);
      seconds[task] = ThreadSeconds() - start;
    });
    // The first pass starts the threads and the vector units.
    const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    if (pass > 0) best = std::max(best, static_cast<double>(tasks) * threads / total);
  }
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
