#include "model/expert_paging.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <set>
#include <stdexcept>

#include "model/expert_layout.h"
#include "util/aligned.h"
#include "util/error.h"

namespace pygrok {
namespace {

constexpr size_t kDefaultLookahead = 1;  // docs/paging.md has the accuracies
constexpr size_t kPieceBytes = size_t{8} << 20;
constexpr size_t kPoolPieces = 16;     // a small pool has at least about so many pieces
constexpr double kTestSeconds = 0.35;  // for each way of reading
constexpr size_t kTestPieces = 48;
constexpr size_t kLeastTestPieces = 8;
constexpr int kTestReaders = 4;
// Buffered reads cost processor time and the memory of others, so they must be worth it.
constexpr double kBufferedGain = 1.25;

size_t CheckLookahead(int lookahead, size_t layers) {
  if (lookahead < -1) {
    throw std::invalid_argument("lookahead is " + std::to_string(lookahead) +
                                ": it must be 0 (none) or a number of layers");
  }
  const size_t wanted = lookahead < 0 ? kDefaultLookahead : static_cast<size_t>(lookahead);
  return std::min(wanted, layers - 1);
}

void Check(const PagingOptions& options, const Config& config) {
  const std::string& io = options.expert_io;
  if (io != "auto" && io != "map" && io != "direct" && io != "buffered") {
    throw std::invalid_argument("expert_io '" + io + "' is unknown: choose auto, map, direct or buffered");
  }
  if (!(options.route_slack >= 0)) {
    throw std::invalid_argument("route_slack is " + std::to_string(options.route_slack) +
                                ": it must be 0 (off) or above");
  }
  for (const auto& [layer, expert] : options.pin_hot) {
    if (layer < config.layers && expert < config.experts) continue;
    throw std::invalid_argument("pin_hot names expert " + std::to_string(expert) + " of layer " +
                                std::to_string(layer) + ": the model has " + std::to_string(config.layers) +
                                " layers of " + std::to_string(config.experts) + " experts");
  }
}

// Whether enough of the range is in the system's cache to make a read look fast.
bool IsCached(const Gguf& file, const FileRange& range) {
  const MappedFile& mapped = file.files()[range.file];
  const size_t begin = range.offset / PieceReader::kAlignment * PieceReader::kAlignment;
  const size_t length = range.offset + range.bytes - begin;
  std::vector<unsigned char> pages(length / PieceReader::kAlignment + 2);
  if (mincore(const_cast<std::byte*>(mapped.data()) + begin, length, pages.data()) != 0) return true;
  const auto cached = std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
  return static_cast<size_t>(cached) > pages.size() / 32;
}

struct Choice {
  std::unique_ptr<PieceReader> reader;
  std::string why;
};

// Direct reads, unless they are refused or buffered ones are clearly faster.
Choice MeasureReaders(const Gguf& file, const StoreLayout& layout) {
  auto buffered = std::make_unique<PieceReader>(file.files(), ReadMode::kBuffered);
  std::vector<FileRange> uncached[2];
  const size_t step = std::max<size_t>(1, layout.pieces.size() / (2 * kTestPieces));
  for (size_t i = 0, found = 0; i < layout.pieces.size(); i += step) {
    if (!IsCached(file, layout.pieces[i].range)) uncached[found++ % 2].push_back(layout.pieces[i].range);
  }
  std::unique_ptr<PieceReader> direct;
  try {
    direct = std::make_unique<PieceReader>(file.files(), ReadMode::kDirect);
    if (uncached[0].size() < kLeastTestPieces) {
      MeasureReads(*direct, {layout.pieces.front().range}, 1, kTestSeconds);
      return {std::move(direct), "direct reads work, the file is in the system's cache"};
    }
    const double direct_rate = MeasureReads(*direct, uncached[0], kTestReaders, kTestSeconds);
    const double buffered_rate = MeasureReads(*buffered, uncached[1], kTestReaders, kTestSeconds);
    char rates[96];
    std::snprintf(rates, sizeof(rates), "measured: direct %.2f GB/s, buffered %.2f GB/s", direct_rate / 1e9,
                  buffered_rate / 1e9);
    return {buffered_rate > kBufferedGain * direct_rate ? std::move(buffered) : std::move(direct), rates};
  } catch (const ModelError&) {
    return {std::move(buffered), "direct reads are refused"};
  }
}

void ReadAll(const Gguf& file, const std::vector<FileRange>& ranges, const ExpertPaging::Poll& poll) {
  const PieceReader mapped(file.files(), ReadMode::kMapped);
  for (const FileRange& range : ranges) {
    poll();
    mapped.Read(range, nullptr);
  }
}

}  // namespace

ExpertPaging::ExpertPaging(const Gguf& file, const Config& config, Weights& weights, MemoryLedger& ledger,
                           const PagingOptions& options, size_t working_bytes, size_t plain_bytes,
                           const Poll& poll)
    : config_(config),
      ledger_(ledger),
      pid_(getpid()),
      options_(options),
      lookahead_(CheckLookahead(options.lookahead, config.layers)),
      guesses_(config.layers) {
  Check(options, config);
  for (const MappedFile& mapped : file.files()) file_bytes_ += mapped.size();
  const bool forced = options.expert_io == "direct" || options.expert_io == "buffered";
  if (!forced && ledger.left() >= file_bytes_ && ledger.left() - file_bytes_ >= plain_bytes) {
    ledger.Charge(file_bytes_, "the model's file");
    charged_ = file_bytes_;
    chosen_by_ = ledger.limit() == 0 ? "no memory limit is set" : "the file fits the memory limit";
    expert_bytes_ = LargestExpert(weights);
    if (!options.pin_hot.empty()) {
      PinGroups(file, MakeExpertLayout(file, config, weights, kPieceBytes, false).store, poll);
    }
    return;
  }
  try {
    Stream(file, weights, working_bytes, poll);
  } catch (...) {
    ledger.SetReclaim(nullptr);
    if (store_) ledger.Release(store_->capacity_bytes());
    ledger.Release(charged_);
    throw;
  }
  Attach(weights);
}

ExpertPaging::~ExpertPaging() {
  if (getpid() != pid_) return;  // somebody may have held the store's lock during the fork
  ledger_.SetReclaim(nullptr);
  if (store_) ledger_.Release(store_->capacity_bytes());
  ledger_.Release(charged_);
}

void ExpertPaging::Stream(const Gguf& file, const Weights& weights, size_t working_bytes, const Poll& poll) {
  const ExpertLayout smallest = MakeExpertLayout(file, config_, weights, 1, true);
  const size_t other_bytes = file_bytes_ - smallest.bytes;
  const size_t needed =
      other_bytes + working_bytes + ExpertStore::kMinSlots * ExpertStore::SlotBytes(smallest.store);
  if (ledger_.left() < needed) {
    throw MemoryLimit(
        file.Where("memory_limit is " + std::to_string(ledger_.limit()) +
                   " bytes, but this model needs at least " + std::to_string(ledger_.used() + needed) + " (" +
                   std::to_string(other_bytes) + " of them are what every token reads): raise it"));
  }
  ledger_.Charge(other_bytes, "what every token needs of the model");
  charged_ = other_bytes;

  const size_t left = ledger_.limit() == 0 ? SIZE_MAX : ledger_.left();
  const size_t target = std::clamp<size_t>((left - working_bytes) / kPoolPieces, 1, kPieceBytes);
  ExpertLayout layout = options_.piece_bytes > 0
                            ? MakeExpertLayout(file, config_, weights, options_.piece_bytes, true)
                            : MakeExpertLayout(file, config_, weights, target, false);
  expert_bytes_ = LargestExpert(weights);
  rows_ = std::move(layout.rows);

  for (const StorePiece& piece : layout.store.pieces) {
    file.files()[piece.range.file].Advise(piece.range.offset, piece.range.bytes, Access::kRandom);
  }
  ReadAll(file, OtherRanges(file, layout.store), poll);
  file.RequireReadable();

  Choice choice;
  if (options_.expert_io == "auto") {
    choice = MeasureReaders(file, layout.store);
  } else {
    const ReadMode mode = options_.expert_io == "map"      ? ReadMode::kMapped
                          : options_.expert_io == "direct" ? ReadMode::kDirect
                                                           : ReadMode::kBuffered;
    choice = {std::make_unique<PieceReader>(file.files(), mode), "expert_io"};
  }
  chosen_by_ = choice.why;
  store_ = std::make_unique<ExpertStore>(std::move(layout.store), std::move(choice.reader), left, left);
  const size_t pool = store_->capacity_bytes();
  try {
    ledger_.Charge(pool, "the pool of experts");
  } catch (...) {
    store_.reset();
    throw;
  }
  ledger_.SetReclaim([this](size_t bytes) { ledger_.Release(store_->Shrink(bytes)); });
  for (auto& [data, rows] : rows_) rows.store = store_.get();
  if (!options_.pin_hot.empty()) PinGroups(file, store_->layout(), poll);
}

void ExpertPaging::PinGroups(const Gguf& file, const StoreLayout& layout, const Poll& poll) {
  std::set<size_t> groups;
  for (const auto& [layer, expert] : options_.pin_hot) groups.insert(layer * config_.experts + expert);
  if (streamed()) return store_->Pin({groups.begin(), groups.end()}, poll);
  std::vector<FileRange> ranges;
  for (const size_t group : groups) {
    for (size_t i = layout.group_first[group]; i < layout.group_first[group + 1]; ++i) {
      ranges.push_back(layout.pieces[i].range);
    }
  }
  std::sort(ranges.begin(), ranges.end(), [](const FileRange& a, const FileRange& b) {
    return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
  });
  ReadAll(file, ranges, poll);
}

void ExpertPaging::Attach(Weights& weights) const {
  if (!streamed()) return;
  for (LayerWeights& layer : weights.layers) {
    for (ExpertWeights& expert : layer.experts) {
      for (Matrix* m : {&expert.gate, &expert.up, &expert.down}) {
        const auto found =
            std::lower_bound(rows_.begin(), rows_.end(), m->data,
                             [](const auto& entry, const std::byte* data) { return entry.first < data; });
        if (found != rows_.end() && found->first == m->data) m->paged = &found->second;
      }
    }
  }
}

void ExpertPaging::Begin(size_t tokens) {
  tokens_ += tokens;
  for (auto& guesses : guesses_) guesses.clear();
}

void ExpertPaging::Plan(size_t layer, const LayerWeights& weights, const std::vector<Route>& routes,
                        size_t rows, const std::vector<std::pair<size_t, size_t>>& groups, const Poll* poll) {
  std::vector<float> shares(config_.experts);
  for (const Route& route : routes) shares[route.expert] += 1.0f / static_cast<float>(rows);
  std::vector<size_t> pieces;
  const auto add = [&pieces](const Matrix& m) {
    if (m.paged == nullptr) return;  // replaced
    const size_t count = (m.rows + m.paged->rows - 1) / m.paged->rows;
    for (size_t i = 0; i < count; ++i) pieces.push_back(m.paged->first_piece + i);
  };
  for (const auto& [begin, end] : groups) {
    std::vector<const ExpertWeights*> experts;
    for (size_t i = begin; i < end; ++i) {
      const ExpertWeights* expert = &weights.experts[routes[i].expert];
      if (experts.empty() || experts.back() != expert) experts.push_back(expert);
    }
    for (const ExpertWeights* expert : experts) {
      add(expert->gate);
      add(expert->up);
    }
    for (const ExpertWeights* expert : experts) add(expert->down);
  }
  for (const std::vector<size_t>& guess : guesses_[layer]) {
    predictions_ += guess.size();
    for (const size_t expert : guess) right_ += shares[expert] > 0;
  }
  guesses_[layer].clear();
  store_->Plan(layer, pieces, shares, rows, poll);
}

void ExpertPaging::Release() { store_->Release(); }

void ExpertPaging::Predict(size_t layer, const std::vector<size_t>& experts, bool counted) {
  if (counted) guesses_[layer].push_back(experts);
  store_->Predict(layer, experts);
}

void ExpertPaging::Adapt(size_t layer, std::vector<Route>& routes, const float* probabilities, size_t rows) {
  if (!streamed() || options_.route_slack <= 0) return;
  const size_t used = config_.experts_used;
  std::vector<bool> at_hand(config_.experts);
  for (size_t e = 0; e < config_.experts; ++e) at_hand[e] = store_->IsResident(layer * config_.experts + e);
  for (size_t row = 0; row < rows; ++row) at_hand[routes[row * used].expert] = true;
  for (size_t row = 0; row < rows; ++row) {
    const float* p = probabilities + row * config_.experts;
    Route* const own = routes.data() + row * used;
    for (size_t i = 1; i < used; ++i) {
      if (at_hand[own[i].expert]) continue;
      const double least = (1 - options_.route_slack) * static_cast<double>(own[i].weight);
      std::optional<size_t> better;
      for (size_t e = 0; e < config_.experts; ++e) {
        const bool taken = std::any_of(own, own + used, [e](const Route& r) { return r.expert == e; });
        if (!at_hand[e] || taken || !(static_cast<double>(p[e]) >= least)) continue;
        if (!better || p[e] > p[*better]) better = e;
      }
      if (!better) continue;
      own[i] = {*better, row, p[*better]};
      ++changed_;
    }
  }
}

void ExpertPaging::Grow() {
  if (!streamed() || ledger_.limit() == 0) return;
  if (const size_t grown = store_->Grow(ledger_.left())) ledger_.Charge(grown, "the pool of experts");
}

void ExpertPaging::Drop() {
  if (streamed()) store_->Drop();
}

PagingReport ExpertPaging::Report(int threads) const {
  PagingReport report = {};
  report.mode = "map";
  if (streamed()) {
    report.mode = store_->mode() == ReadMode::kDirect     ? "direct"
                  : store_->mode() == ReadMode::kBuffered ? "buffered"
                                                          : "map-streamed";
    report.store = store_->counters();
    report.store.wait_seconds /= threads;
    report.pool_bytes = store_->capacity_bytes();
    report.piece_bytes = store_->slot_bytes();
  }
  report.chosen_by = chosen_by_;
  report.budget_bytes = ledger_.limit();
  report.resident_bytes = charged_;
  report.expert_bytes = expert_bytes_;
  report.lookahead = lookahead();
  report.tokens = tokens_;
  report.predictions = predictions_;
  report.predictions_right = right_;
  report.routes = routes_;
  report.routes_changed = changed_;
  return report;
}

void ExpertPaging::Reset() {
  if (streamed()) store_->ResetCounters();
  tokens_ = predictions_ = right_ = routes_ = changed_ = 0;
}

std::vector<float> ExpertPaging::Resident() const {
  if (streamed()) return store_->Resident();
  return std::vector<float>(config_.layers * config_.experts, 1.0f);
}

}  // namespace pygrok
