#include "io/expert_store.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "io/expert_store_state.h"
#include "util/fork.h"

namespace pygrok {
namespace {

// How often a waiting thread asks whether it should give up.
constexpr auto kPollInterval = std::chrono::milliseconds(20);

}  // namespace

size_t ExpertStore::SlotBytes(const StoreLayout& layout) {
  size_t bytes = 0;
  for (const StorePiece& piece : layout.pieces) bytes = std::max(bytes, PieceReader::ReadBytes(piece.range));
  return bytes;
}

ExpertStore::ExpertStore(StoreLayout layout, std::unique_ptr<PieceReader> reader, size_t capacity,
                         size_t most)
    : layout_(std::move(layout)), slot_bytes_(SlotBytes(layout_)), pid_(getpid()) {
  const size_t pieces = layout_.pieces.size();
  const size_t slots = std::min(pieces, std::max(kMinSlots, most / slot_bytes_));
  const size_t usable = std::clamp(capacity / slot_bytes_, std::min(kMinSlots, slots), slots);
  state_ = std::make_unique<State>(layout_, std::move(reader), slots, usable, slot_bytes_);
}

ExpertStore::~ExpertStore() {
  if (getpid() != pid_) (void)state_.release();  // its threads exist in the parent only
}

ReadMode ExpertStore::mode() const { return state_->reader->mode(); }

void ExpertStore::Plan(size_t layer, const std::vector<size_t>& pieces, std::span<const float> shares,
                       size_t tokens, const Poll* poll) {
  Release();
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.poll = poll;
  ++s.plans;
  s.use.Observe(layer, shares, tokens);
  s.ForgetPredictions(layer);
  for (const size_t index : pieces) {
    State::Piece& piece = s.pieces[index];
    const size_t bytes = layout_.pieces[index].range.bytes;
    s.counters.bytes_needed += bytes;
    if (piece.place == State::kResident && !piece.ahead) s.counters.bytes_hit += bytes;
    piece.ahead = false;
    piece.cancel = false;
    piece.rows_left = layout_.pieces[index].rows;
    piece.position = s.plan.size();
    s.plan.push_back(index);
  }
  s.CountWaste(layer);
  s.work.notify_all();
}

void ExpertStore::Release() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  for (const size_t index : s.plan) s.pieces[index].rows_left = 0;
  s.plan.clear();
  s.cursor = 0;
  for (const size_t index : s.wanted) s.pieces[index].wanted = false;
  s.wanted.clear();
  s.poll = nullptr;
  s.error = nullptr;
  s.work.notify_all();
}

const std::byte* ExpertStore::Acquire(size_t index, bool polls) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  State::Piece& piece = s.pieces[index];
  if (piece.place != State::kResident) {
    const auto start = State::Clock::now();
    ++piece.waiters;
    if (piece.rows_left == 0) {  // not planned, but never a reason to hang
      piece.rows_left = layout_.pieces[index].rows;
      piece.position = s.plan.size();
      s.plan.push_back(index);
    }
    while (piece.place != State::kResident && !s.error) {
      if (piece.place == State::kAbsent && !piece.wanted) {
        piece.wanted = true;
        s.wanted.push_back(index);
        s.work.notify_one();
      }
      const Poll* const poll = s.poll;
      if (!polls || poll == nullptr) {
        s.arrived.wait(lock);
      } else if (s.arrived.wait_for(lock, kPollInterval) == std::cv_status::timeout) {
        lock.unlock();
        std::exception_ptr thrown;
        try {
          (*poll)();
        } catch (...) {
          thrown = std::current_exception();
        }
        lock.lock();
        if (thrown && !s.error) s.Fail(std::move(thrown));
      }
    }
    --piece.waiters;
    s.counters.wait_seconds += State::Since(start);
    if (piece.place != State::kResident) std::rethrow_exception(s.error);
  }
  ++piece.users;
  return piece.data;
}

void ExpertStore::Finish(size_t index, size_t rows) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  State::Piece& piece = s.pieces[index];
  --piece.users;
  piece.rows_left -= std::min(rows, piece.rows_left);
  if (piece.rows_left == 0) s.work.notify_one();
}

void ExpertStore::Predict(size_t layer, const std::vector<size_t>& experts) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.ForgetPredictions(layer);
  for (const size_t expert : experts) {
    const size_t group = layer * layout_.experts + expert;
    s.predicted[group] = true;
    for (size_t i = layout_.group_first[group]; i < layout_.group_first[group + 1]; ++i) {
      if (s.pieces[i].place == State::kAbsent) s.ahead.push_back({i, layer, false});
    }
  }
  s.work.notify_all();
}

void ExpertStore::Pin(std::vector<size_t> groups, const Poll& poll) {
  State& s = *state_;
  std::vector<size_t> wanted;
  for (const size_t group : groups) {
    for (size_t i = layout_.group_first[group]; i < layout_.group_first[group + 1]; ++i) wanted.push_back(i);
  }
  std::sort(wanted.begin(), wanted.end(), [this](size_t a, size_t b) {
    const FileRange& x = layout_.pieces[a].range;
    const FileRange& y = layout_.pieces[b].range;
    return std::pair(x.file, x.offset) < std::pair(y.file, y.offset);
  });
  std::unique_lock lock(s.mutex);
  for (const size_t group : groups) s.use.Favor(group);
  for (const size_t index : wanted) s.ahead.push_back({index, layout_.layers, true});
  s.work.notify_all();
  while (!s.Idle()) {
    s.arrived.wait_for(lock, kPollInterval);
    lock.unlock();
    try {
      poll();
    } catch (...) {
      lock.lock();
      s.ahead.clear();
      throw;
    }
    lock.lock();
  }
}

void ExpertStore::Drop() {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.ahead.clear();
  s.arrived.wait(lock, [&s] { return s.in_flight == 0; });
  for (size_t i = 0; i < s.pieces.size(); ++i) {
    if (s.IsSpare(s.pieces[i])) s.free_slots.push_back(s.Evict(i));
  }
}

size_t ExpertStore::Shrink(size_t bytes) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  const size_t least = std::min(kMinSlots, layout_.pieces.size());
  size_t given = 0;
  while (given * slot_bytes_ < bytes && s.usable_slots > least) {
    const std::optional<size_t> slot = s.TakeSlot(std::nullopt);
    if (slot) {
      s.pool.Empty(*slot);
      s.parked_slots.push_back(*slot);
      --s.usable_slots;
      ++given;
    } else if (s.in_flight > 0) {
      s.arrived.wait(lock);
    } else {
      break;
    }
  }
  return given * slot_bytes_;
}

size_t ExpertStore::Grow(size_t bytes) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  const size_t taken = std::min(bytes / slot_bytes_, s.parked_slots.size());
  for (size_t i = 0; i < taken; ++i) {
    s.free_slots.push_back(s.parked_slots.back());
    s.parked_slots.pop_back();
  }
  s.usable_slots += taken;
  return taken * slot_bytes_;
}

size_t ExpertStore::capacity_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->usable_slots * slot_bytes_;
}

StoreCounters ExpertStore::counters() const {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  StoreCounters counters = s.counters;
  if (s.in_flight > 0) counters.read_seconds += State::Since(s.reading_since);
  return counters;
}

void ExpertStore::ResetCounters() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.counters = {};
  s.reading_since = State::Clock::now();
}

std::vector<float> ExpertStore::Resident() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<float> shares(layout_.groups());
  for (size_t g = 0; g < shares.size(); ++g) {
    double bytes = 0;
    double resident = 0;
    for (size_t i = layout_.group_first[g]; i < layout_.group_first[g + 1]; ++i) {
      const auto piece = static_cast<double>(layout_.pieces[i].range.bytes);
      bytes += piece;
      if (state_->pieces[i].place == State::kResident) resident += piece;
    }
    shares[g] = bytes > 0 ? static_cast<float>(resident / bytes) : 0;
  }
  return shares;
}

bool ExpertStore::Has(size_t piece) const {
  const std::lock_guard lock(state_->mutex);
  return state_->pieces[piece].place == State::kResident;
}

bool ExpertStore::IsResident(size_t group) const {
  const std::lock_guard lock(state_->mutex);
  return state_->held[group] == layout_.group_first[group + 1] - layout_.group_first[group];
}

}  // namespace pygrok
