// Which piece is read next and which gives way to it.
#include "io/expert_store_state.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace pygrok {
namespace {

// Requests under way at once; more were no faster, see docs/paging.md.
constexpr int kReaders = 4;
// Of these ahead of need: what they have begun delays what is needed then.
constexpr size_t kReadersAhead = 2;

}  // namespace

ExpertStore::State::State(const StoreLayout& store_layout, std::unique_ptr<PieceReader> piece_reader,
                          size_t slots, size_t usable, size_t slot_bytes)
    : layout(store_layout),
      reader(std::move(piece_reader)),
      pool(slots, reader->mode() == ReadMode::kMapped ? 0 : slot_bytes),
      pieces(layout.pieces.size()),
      held(layout.groups()),
      usable_slots(usable),
      predicted(layout.groups()),
      use(layout.layers, layout.experts) {
  // The lowest first, so that a pool that is never filled touches no more memory than it must.
  for (size_t i = usable; i-- > 0;) free_slots.push_back(i);
  for (size_t i = slots; i-- > usable;) parked_slots.push_back(i);
  for (size_t g = 0; g < layout.groups(); ++g) {
    for (size_t i = layout.group_first[g]; i < layout.group_first[g + 1]; ++i) pieces[i].group = g;
  }
  try {
    for (int i = 0; i < kReaders; ++i) threads.emplace_back([this] { Run(); });
  } catch (...) {
    Stop();  // the destructor does not run for an object that was never made
    throw;
  }
}

ExpertStore::State::~State() { Stop(); }

void ExpertStore::State::Stop() {
  {
    const std::lock_guard lock(mutex);
    stop = true;
  }
  work.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void ExpertStore::State::Run() {
  std::unique_lock lock(mutex);
  while (true) {
    std::optional<Job> job;
    work.wait(lock, [&] { return stop || (job = NextJob()); });
    if (!job) return;
    Piece& piece = pieces[job->piece];
    const FileRange& range = layout.pieces[job->piece].range;
    piece.place = kReading;
    piece.ahead = job->ahead;
    piece.slot = job->slot;
    piece.cancel = false;
    ahead_in_flight += job->ahead;
    if (in_flight++ == 0) reading_since = Clock::now();
    const size_t plan_then = plans;
    lock.unlock();
    size_t bytes = 0;
    const std::byte* data = nullptr;
    std::exception_ptr failed;
    try {
      data = reader->Read(range, pool.slot(job->slot), &piece.cancel, &bytes);
    } catch (...) {
      failed = std::current_exception();
    }
    lock.lock();
    ahead_in_flight -= job->ahead;
    if (--in_flight == 0) counters.read_seconds += Since(reading_since);
    counters.bytes_read += bytes;
    if (job->ahead) counters.bytes_predicted_read += bytes;
    if (piece.cancel) counters.bytes_wasted += bytes;
    if (data == nullptr) {
      // What was begun for an earlier plan, and given up or failed, may be planned by now: then somebody asks
      // again.
      piece.place = kAbsent;
      piece.ahead = false;
      free_slots.push_back(job->slot);
      if (failed && piece.rows_left > 0 && plan_then == plans && !error) error = failed;
    } else {
      piece.place = kResident;
      ++held[piece.group];
      piece.data = data;
    }
    arrived.notify_all();
  }
}

std::optional<ExpertStore::State::Job> ExpertStore::State::NextJob() {
  if (error) return std::nullopt;
  while (!wanted.empty()) {
    const size_t index = wanted.front();
    if (pieces[index].place == kAbsent && pieces[index].waiters > 0) {
      const std::optional<size_t> slot = TakeSlot(index);
      if (!slot) return std::nullopt;  // whoever finishes a piece calls again
      wanted.pop_front();
      pieces[index].wanted = false;
      return Job{index, *slot, false};
    }
    wanted.pop_front();
    pieces[index].wanted = false;
  }
  for (; cursor < plan.size(); ++cursor) {
    const Piece& piece = pieces[plan[cursor]];
    if (piece.place != kAbsent || piece.rows_left == 0) continue;
    const std::optional<size_t> slot = TakeSlot(plan[cursor]);
    if (!slot) return std::nullopt;
    return Job{plan[cursor++], *slot, false};
  }
  while (!ahead.empty() && (ahead.front().pinned || ahead_in_flight < kReadersAhead)) {
    const Ahead entry = ahead.front();
    ahead.pop_front();
    if (pieces[entry.piece].place == kAbsent) {
      if (const std::optional<size_t> slot = TakeSlotAhead(entry)) {
        return Job{entry.piece, *slot, !entry.pinned};
      }
    }
    if (ahead.empty()) arrived.notify_all();  // for Pin
  }
  return std::nullopt;
}

std::optional<size_t> ExpertStore::State::TakeSlot(std::optional<size_t> piece) {
  if (!free_slots.empty()) {
    const size_t slot = free_slots.back();
    free_slots.pop_back();
    return slot;
  }
  if (const std::optional<size_t> victim = Victim(-1)) return Evict(*victim);
  // The plan alone fills the pool: what it needs last is read again.
  const bool urgent = !piece || pieces[*piece].waiters > 0;
  const size_t end = urgent ? 0 : pieces[*piece].position + 1;
  for (size_t i = plan.size(); i-- > end;) {
    const Piece& candidate = pieces[plan[i]];
    if (candidate.place != kResident || candidate.users > 0 || candidate.waiters > 0) continue;
    cursor = std::min(cursor, i);
    return Evict(plan[i]);
  }
  return std::nullopt;
}

std::optional<size_t> ExpertStore::State::TakeSlotAhead(const Ahead& entry) {
  if (!free_slots.empty()) return TakeSlot(entry.piece);
  if (entry.pinned) return std::nullopt;
  const size_t group = entry.layer * layout.experts;
  const std::optional<size_t> victim = Victim(use.NextVisit(group));
  if (!victim) return std::nullopt;
  return Evict(*victim);
}

size_t ExpertStore::State::Evict(size_t index) {
  Piece& piece = pieces[index];
  const FileRange& range = layout.pieces[index].range;
  if (piece.ahead) counters.bytes_wasted += range.bytes;
  piece.ahead = false;
  piece.place = kAbsent;
  --held[piece.group];
  piece.data = nullptr;
  reader->Drop(range);
  return piece.slot;
}

std::optional<size_t> ExpertStore::State::Victim(double distance) const {
  std::optional<size_t> victim;
  for (size_t g = 0; g < layout.groups(); ++g) {
    if (held[g] == 0) continue;
    const double candidate = Distance(g);
    if (candidate <= distance) continue;
    // From the end: while the beginning of an expert is computed, its end can be read.
    for (size_t i = layout.group_first[g + 1]; i-- > layout.group_first[g];) {
      if (!IsSpare(pieces[i])) continue;
      victim = i;
      distance = candidate;
      break;
    }
  }
  return victim;
}

void ExpertStore::State::ForgetPredictions(size_t layer) {
  std::erase_if(ahead, [&](const Ahead& entry) { return entry.layer == layer; });
  for (size_t e = 0; e < layout.experts; ++e) predicted[layer * layout.experts + e] = false;
}

void ExpertStore::State::CountWaste(size_t layer) {
  const size_t first = layout.group_first[layer * layout.experts];
  const size_t last = layout.group_first[(layer + 1) * layout.experts];
  for (size_t i = first; i < last; ++i) {
    if (!pieces[i].ahead) continue;
    pieces[i].ahead = false;
    if (pieces[i].place == kReading) {
      pieces[i].cancel = true;
    } else {
      counters.bytes_wasted += layout.pieces[i].range.bytes;
    }
  }
}

}  // namespace pygrok
