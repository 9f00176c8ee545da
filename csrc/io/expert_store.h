// Pieces of experts in a limited amount of memory: read when they are needed and, behind that, ahead of need;
// kept by how soon they are expected to be needed again. Knows groups of file ranges, not tensors.
//
// A group is an expert of a layer, numbered layer * experts + expert; a piece a run of rows of one of its
// matrices. Who computes plans a layer's pieces, in the order in which it will take them, then acquires and
// finishes each from any number of threads. Reader threads fill slots in that order. Docs: docs/paging.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "io/piece_reader.h"

namespace pygrok {

struct StorePiece {
  FileRange range;
  size_t rows;
};

struct StoreLayout {
  size_t layers;
  size_t experts;                   // of a layer
  std::vector<StorePiece> pieces;   // by group
  std::vector<size_t> group_first;  // [layers * experts + 1]: where each group's pieces begin

  size_t groups() const { return layers * experts; }
};

// Since the last reset. Bytes are those of the pieces, without what alignment adds, but for bytes_read.
struct StoreCounters {
  uint64_t bytes_needed = 0;          // of planned pieces
  uint64_t bytes_hit = 0;             // of those, kept from an earlier use
  uint64_t bytes_read = 0;            // transferred, whatever for
  uint64_t bytes_predicted_read = 0;  // read ahead
  uint64_t bytes_wasted = 0;          // read ahead, then not planned
  double wait_seconds = 0;            // of all threads that waited for a piece, added up
  double read_seconds = 0;            // with at least one read under way
};

class ExpertStore {
 public:
  using Poll = std::function<void()>;
  // Pieces that a planned layer can be computed with, if slowly.
  static constexpr size_t kMinSlots = 4;

  // `capacity` bytes become slots, at least kMinSlots; later more or fewer, up to `most` bytes. Throws
  // MemoryLimit, std::system_error.
  ExpertStore(StoreLayout layout, std::unique_ptr<PieceReader> reader, size_t capacity, size_t most);
  ~ExpertStore();
  ExpertStore(const ExpertStore&) = delete;
  ExpertStore& operator=(const ExpertStore&) = delete;

  const StoreLayout& layout() const { return layout_; }
  ReadMode mode() const;
  size_t slot_bytes() const { return slot_bytes_; }
  static size_t SlotBytes(const StoreLayout& layout);

  // The pieces that will be needed, each once, in this order; their reads begin. Drops what was predicted for
  // this layer and was not yet read. shares [experts]: of `tokens` tokens, how many use each of the layer's
  // experts, as a share.
  // `poll` must live until Release.
  void Plan(size_t layer, const std::vector<size_t>& pieces, std::span<const float> shares, size_t tokens,
            const Poll* poll = nullptr);
  // Ends the plan, whether or not everything was finished.
  void Release();

  // Waits for the piece; its first byte. It stays until Finish. With `polls`, which at most one thread may
  // set, the plan's poll is called now and then while waiting; what it throws reaches every waiter. Throws
  // what the read threw.
  const std::byte* Acquire(size_t piece, bool polls);
  // `rows` of an acquired piece have been used; after all of them the plan no longer needs it.
  void Finish(size_t piece, size_t rows);

  // The experts of a later layer that will probably be needed, the likeliest first: read when nothing
  // else is. Replaces what was predicted for that layer.
  void Predict(size_t layer, const std::vector<size_t>& experts);
  // Reads groups, as far as they fit, in the order of the file, and expects them to be used much.
  void Pin(std::vector<size_t> groups, const Poll& poll);
  // Forgets all pieces that are not in use.
  void Drop();

  // Gives up slots of at least `bytes`, as far as kMinSlots allows, or takes as many in addition as `bytes`
  // hold. Returns the bytes of these slots.
  size_t Shrink(size_t bytes);
  size_t Grow(size_t bytes);
  size_t capacity_bytes() const;

  StoreCounters counters() const;
  void ResetCounters();
  // [groups] share of each group's bytes in memory.
  std::vector<float> Resident() const;
  bool IsResident(size_t group) const;
  bool Has(size_t piece) const;

 private:
  struct State;  // shared with the reader threads

  const StoreLayout layout_;
  const size_t slot_bytes_;
  const int pid_;
  std::unique_ptr<State> state_;
};

}  // namespace pygrok
