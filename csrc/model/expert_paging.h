// Experts of a model that is larger than the memory it may use: what stays, what is read when, and how.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/expert_store.h"
#include "io/gguf.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/weights.h"
#include "util/memory_ledger.h"

namespace pygrok {

struct PagingOptions {
  // "auto": where the file maps it if all fits the limit, else the faster way of reading; "map": the mapping
  // in any case; "direct", "buffered": reads into memory of our own in any case.
  std::string expert_io = "auto";
  int lookahead = -1;                              // layers; -1 = the default, 0 = none
  double route_slack = 0;                          // see ExpertPaging::Adapt
  std::vector<std::pair<size_t, size_t>> pin_hot;  // (layer, expert)
  size_t piece_bytes = 0;                          // 0 = chosen; for tests
};

struct PagingReport {
  const char* mode;       // "map", "map-streamed", "direct", "buffered"
  std::string chosen_by;  // why, for people
  size_t budget_bytes;    // the memory limit; 0 = none
  size_t resident_bytes;  // of the file, in memory whatever is routed
  size_t pool_bytes;      // for experts
  size_t piece_bytes;     // of a slot of the pool
  size_t expert_bytes;    // of the largest
  size_t lookahead;
  StoreCounters store;
  uint64_t tokens, predictions, predictions_right, routes, routes_changed;
};

class ExpertPaging {
 public:
  using Poll = ExpertStore::Poll;

  // Charges the ledger for all weights, or for what stays and for the pool, which takes what is left of the
  // limit and gives way to later charges; what stays and what is pinned is read. working_bytes: what
  // computing will charge at the least, plain_bytes: what it should have room for where everything is
  // mapped. Throws std::invalid_argument, MemoryLimit, FormatError, std::system_error.
  ExpertPaging(const Gguf& file, const Config& config, Weights& weights, MemoryLedger& ledger,
               const PagingOptions& options, size_t working_bytes, size_t plain_bytes, const Poll& poll);
  ~ExpertPaging();
  ExpertPaging(const ExpertPaging&) = delete;
  ExpertPaging& operator=(const ExpertPaging&) = delete;

  // Whether experts come and go. If not, nothing below does anything but count.
  bool streamed() const { return store_ != nullptr; }
  size_t lookahead() const { return streamed() ? lookahead_ : 0; }

  // Lets matrices of the file in `weights` take their rows from the store; replaced ones keep their own.
  void Attach(Weights& weights) const;

  // The layer's routes, group by group of experts whose matrices are computed together: [begin, end) each
  // of routes ordered by expert. Ends with Release.
  void Plan(size_t layer, const LayerWeights& weights, const std::vector<Route>& routes, size_t rows,
            const std::vector<std::pair<size_t, size_t>>& groups, const Poll* poll);
  void Release();

  // The experts that a later layer will probably use, the likeliest first. `counted`: the prediction is
  // judged when the layer's real routes arrive.
  void Predict(size_t layer, const std::vector<size_t>& experts, bool counted);

  // Cache-aware routing (2412.00099), off unless route_slack > 0. For each row's experts but the first that
  // are neither in memory nor some row's first: takes the most probable expert e that is in memory or some
  // row's first, is not used by the row yet and has p_e >= (1 - route_slack) * p of the expert it replaces.
  // routes: `used` for each row, by row, then by falling probability.
  void Adapt(size_t layer, std::vector<Route>& routes, const float* probabilities, size_t rows);

  // A batch of so many tokens begins; predictions that were never judged, since a call failed, are dropped.
  void Begin(size_t tokens);
  void CountRoutes(size_t routes) { routes_ += routes; }

  // Takes memory back that others have released.
  void Grow();
  // Forgets all experts in memory.
  void Drop();

  PagingReport Report(int threads) const;
  void Reset();
  std::vector<float> Resident() const;  // [layers * experts], all 1 unless streamed

 private:
  void Stream(const Gguf& file, const Weights& weights, size_t working_bytes, const Poll& poll);
  void PinGroups(const Gguf& file, const StoreLayout& layout, const Poll& poll);

  const Config& config_;
  MemoryLedger& ledger_;
  const int pid_;
  const PagingOptions options_;
  const size_t lookahead_;
  size_t file_bytes_ = 0;
  std::string chosen_by_;
  size_t charged_ = 0;  // for weights, without the pool
  size_t expert_bytes_ = 0;
  std::vector<std::pair<const std::byte*, PagedRows>> rows_;  // of each matrix of an expert, by address
  std::unique_ptr<ExpertStore> store_;
  std::vector<std::vector<std::vector<size_t>>> guesses_;  // [layers] counted predictions not yet judged
  std::atomic<uint64_t> tokens_{0}, predictions_{0}, right_{0}, routes_{0}, changed_{0};
};

}  // namespace pygrok
