#include "kernels/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "kernels/registry.h"

namespace pygrok {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPiece = size_t{1} << 20;  // bytes read per index of a run
constexpr size_t kRoundsPerLook = 20'000;   // between looks at the clock: tens of microseconds
constexpr double kShortestMeasure = 0.1;    // seconds

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

double ReadBandwidth(const std::byte* data, size_t bytes, ThreadPool& pool) {
  if (bytes == 0) return 0.0;
  const KernelTable& kernels = *SupportedTables().back();
  std::atomic<uint64_t> sink{0};  // or a compiler could drop the reads
  const auto read_all = [&] {
    pool.Run((bytes + kPiece - 1) / kPiece, [&](size_t i, size_t) {
      const size_t begin = i * kPiece;
      sink.fetch_xor(kernels.read(data + begin, std::min(kPiece, bytes - begin)), std::memory_order_relaxed);
    });
  };
  read_all();
  double best = 0.0;
  const Clock::time_point start = Clock::now();
  for (int pass = 0; pass < 2 || SecondsSince(start) < kShortestMeasure; ++pass) {
    const Clock::time_point pass_start = Clock::now();
    read_all();
    best = std::max(best, static_cast<double>(bytes) / SecondsSince(pass_start));
  }
  return best;
}

double DotRate(const KernelTable& kernels, ThreadPool& pool, double seconds) {
  kernels.dot_rounds(kRoundsPerLook);  // wakes the vector units
  std::atomic<int32_t> sink{0};
  std::atomic<size_t> rounds{0};
  const Clock::time_point start = Clock::now();
  pool.Run(static_cast<size_t>(pool.size()), [&](size_t, size_t) {
    size_t done = 0;
    while (SecondsSince(start) < seconds) {
      sink.fetch_xor(kernels.dot_rounds(kRoundsPerLook), std::memory_order_relaxed);
      done += kRoundsPerLook;
    }
    rounds += done;
  });
  const double macs = static_cast<double>(rounds.load()) * static_cast<double>(kernels.dot_macs_per_round);
  return 2 * macs / SecondsSince(start);
}

}  // namespace pygrok
