// What an ExpertStore's callers and its reader threads share. Only for expert_store*.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "io/expected_use.h"
#include "io/expert_store.h"
#include "io/slot_pool.h"

namespace pygrok {

struct ExpertStore::State {
  using Clock = std::chrono::steady_clock;
  enum Place : uint8_t { kAbsent, kReading, kResident };

  struct Piece {
    Place place = kAbsent;
    bool ahead = false;               // read, or being read, on a prediction, and not planned yet
    bool wanted = false;              // listed in `wanted`
    std::atomic<bool> cancel{false};  // while it is read ahead: another expert was routed
    uint32_t users = 0;               // acquired, not finished
    uint32_t waiters = 0;             // threads in Acquire
    size_t rows_left = 0;             // of the plan; 0: not needed (any more)
    size_t position = 0;              // in the plan
    size_t slot = 0;
    size_t group = 0;
    const std::byte* data = nullptr;
  };

  struct Ahead {
    size_t piece;
    size_t layer;
    bool pinned;  // for Pin: only into free slots
  };

  struct Job {
    size_t piece;
    size_t slot;
    bool ahead;
  };

  State(const StoreLayout& store_layout, std::unique_ptr<PieceReader> piece_reader, size_t slots,
        size_t usable, size_t slot_bytes);
  ~State();

  static double Since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // All that follows needs the mutex.

  // Nobody needs the piece just now.
  static bool IsSpare(const Piece& piece) {
    return piece.place == kResident && piece.users == 0 && piece.waiters == 0 && piece.rows_left == 0;
  }
  bool Idle() const { return ahead.empty() && in_flight == 0; }

  // What to read next, with its slot.
  std::optional<Job> NextJob();
  // A slot for `piece`, or to give away for nullopt, by eviction if need be. Not by evicting what the plan
  // needs earlier than the piece.
  std::optional<size_t> TakeSlot(std::optional<size_t> piece);
  // The same for a piece that may be needed: not by evicting what is expected sooner.
  std::optional<size_t> TakeSlotAhead(const Ahead& entry);
  size_t Evict(size_t piece);  // returns its slot
  // The spare piece that is expected to be needed last, if that is further off than `distance` layers.
  std::optional<size_t> Victim(double distance) const;
  double Distance(size_t group) const {
    return predicted[group] ? use.NextVisit(group) : use.Distance(group);
  }

  void ForgetPredictions(size_t layer);
  // Gives up, or counts, what was read ahead for the layer and is not in the plan that has just been made.
  void CountWaste(size_t layer);
  void Fail(std::exception_ptr thrown) {
    error = std::move(thrown);
    arrived.notify_all();
  }

  void Run();  // a reader thread
  void Stop();

  const StoreLayout& layout;
  const std::unique_ptr<PieceReader> reader;
  const SlotPool pool;

  mutable std::mutex mutex;
  std::condition_variable work;     // readers wait here
  std::condition_variable arrived;  // a read ended, well or not
  bool stop = false;
  std::vector<Piece> pieces;  // never resized: readers watch `cancel` without the mutex
  std::vector<size_t> held;   // [groups] pieces in memory
  std::vector<size_t> free_slots;
  std::vector<size_t> parked_slots;  // without memory, beyond what the ledger allows
  size_t usable_slots;
  std::vector<size_t> plan;   // pieces in the order of use
  size_t plans = 0;           // made so far
  size_t cursor = 0;          // into plan: what lies before was read or is being read
  std::deque<size_t> wanted;  // absent pieces that a thread waits for: read before all others
  std::deque<Ahead> ahead;
  std::vector<bool> predicted;  // [groups]
  std::exception_ptr error;     // that ended the plan
  const Poll* poll = nullptr;   // the plan's
  ExpectedUse use;
  StoreCounters counters;
  size_t in_flight = 0;
  size_t ahead_in_flight = 0;
  Clock::time_point reading_since;
  std::vector<std::thread> threads;
};

}  // namespace pygrok
