#include "model/engine.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <unordered_set>

#include "kernels/registry.h"
#include "model/thread_choice.h"
#include "util/cpus.h"
#include "util/error.h"
#include "util/fork.h"

namespace pygrok {
namespace {

constexpr int kMaxThreads = 1024;
// Positions that a model should have room for before it is mapped as a whole.
constexpr size_t kPlainPositions = 1024;

// What a thread may want besides, such as attention's sums.
constexpr size_t kWorkerBytes = size_t{32} << 10;

// Rows of a batch when experts are streamed: the more, the fewer times each expert is read, but the buffers
// take memory from the experts.
constexpr size_t kMostBatchRows = 4096;
// Buffers of larger batches are given back to the experts.
constexpr size_t kKeptBatchRows = 16;

constexpr auto kPollInterval = std::chrono::milliseconds(20);

int ChooseThreads(int wanted, const KernelTable& kernels) {
  if (wanted < 0 || wanted > kMaxThreads) {
    throw std::invalid_argument("threads is " + std::to_string(wanted) + ", expected 1 to " +
                                std::to_string(kMaxThreads) + " (or 0 for as many as are fastest)");
  }
  return wanted == 0 ? FastestThreadCount(kernels, AvailableCpus()) : wanted;
}

size_t ChooseContext(size_t wanted, const Config& config) {
  if (wanted > config.context) {
    throw std::invalid_argument("context is " + std::to_string(wanted) + ", the model was made for at most " +
                                std::to_string(config.context));
  }
  return wanted == 0 ? config.context : wanted;
}

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options, const Poll& poll)
    : pid_(getpid()),
      kernels_(SelectTable(options.isa)),
      ledger_(std::make_shared<MemoryLedger>(options.memory_limit)) {
  const KvType kv_type = ParseKvType(options.kv_type);
  const Precision precision = ParsePrecision(options.activations);
  threads_ = ChooseThreads(options.threads, kernels_);
  file_ = std::make_unique<Gguf>(path);
  config_ = ReadConfig(*file_);
  context_ = ChooseContext(options.context, config_);
  RequireHeadSize(kv_type, config_.head_size, path);
  weights_ = FindWeights(*file_, config_, kernels_);
  tied_output_ = file_->FindTensor("output.weight") == nullptr;
  fingerprint_ = Fingerprint();
  file_->RequireReadable();
  layout_ = {kv_type, config_.layers, config_.kv_heads, config_.head_size};
  pool_ = std::make_unique<ThreadPool>(threads_);
  compute_ = std::make_unique<Compute>(kernels_, *pool_, ledger_.get(), precision);
  const size_t plain_bytes = BatchBytes(std::min(context_, kMaxBatchRows)) +
                             (std::min(context_, kPlainPositions) + kKvBlockPositions - 1) /
                                 kKvBlockPositions * layout_.block_bytes();
  const size_t working_bytes =
      BatchBytes(1) + static_cast<size_t>(threads_) * kWorkerBytes + layout_.block_bytes();
  paging_ = std::make_unique<ExpertPaging>(*file_, config_, weights_, *ledger_, options.paging, working_bytes,
                                           plain_bytes, poll);
  if (paging_->streamed()) {
    const size_t room = (ledger_->limit() == 0 ? SIZE_MAX : paging_->Report(threads_).pool_bytes) / 4;
    max_rows_ = std::clamp<size_t>(room / (BatchBytes(kMaxBatchRows + 1) - BatchBytes(kMaxBatchRows)), 1,
                                   kMostBatchRows);
  }
  ResetForward();
}

size_t Engine::BatchBytes(size_t rows) const {
  const size_t row = 8 * config_.embedding + 3 * config_.q_width() + 2 * config_.kv_width() + config_.experts;
  // Of experts that are computed together; see Experts.
  const size_t routes = std::min(rows * config_.experts_used, std::max(rows, kGroupRoutes));
  const size_t route = 3 * config_.expert_width + 2 * config_.embedding;
  return (rows * row + routes * route + std::min(rows, kLogitRows) * config_.vocab) * sizeof(float);
}

void Engine::ResetForward() {
  forward_ = std::make_unique<ForwardPass>(config_, weights_, *compute_, *paging_);
}

std::shared_ptr<Session> Engine::NewSession() {
  return std::make_shared<Session>(shared_from_this(), KvCache(layout_, ledger_), sessions_made_++);
}

Engine::Lock Engine::Acquire(const Poll& poll) {
  RefuseForked(pid_);  // a lock that was held during the fork stays held for ever
  Lock lock(mutex_, std::defer_lock);
  while (!lock.try_lock_for(kPollInterval)) poll();
  if (!file_) throw ModelError("the model is closed");
  return lock;
}

void Engine::Close() {
  Cancel();
  Lock lock(mutex_, std::defer_lock);
  if (getpid() == pid_) lock.lock();  // in a forked child nothing else runs
  forward_.reset();
  {
    std::unique_lock paging_lock(paging_mutex_, std::defer_lock);
    if (getpid() == pid_) paging_lock.lock();
    paging_.reset();
  }
  trace_.reset();
  compute_.reset();
  pool_.reset();
  weights_ = {};
  replacements_.clear();
  for (const auto& [name, bytes] : replaced_bytes_) ledger_->Release(bytes.size());
  replaced_bytes_.clear();
  file_.reset();
}

void Engine::Check(const std::vector<Request>& requests) const {
  std::unordered_set<const Session*> seen;
  for (const Request& request : requests) {
    const Session& session = *request.session;
    if (session.engine_.get() != this) throw std::invalid_argument("the session belongs to another model");
    if (!seen.insert(&session).second) throw std::invalid_argument("a session occurs twice in one call");
    CheckPast(session);
    if (request.ids.empty()) throw std::invalid_argument("ids is empty: feed at least one token");
    for (size_t i = 0; i < request.ids.size(); ++i) {
      const int32_t id = request.ids[i];
      if (id < 0 || static_cast<size_t>(id) >= config_.vocab) {
        throw std::invalid_argument("ids[" + std::to_string(i) + "] is " + std::to_string(id) +
                                    ", the vocabulary has 0 to " + std::to_string(config_.vocab - 1));
      }
    }
    if (request.ids.size() > context_ - session.position()) {
      throw ContextOverflow("position " + std::to_string(session.position()) + " plus " +
                            std::to_string(request.ids.size()) + " tokens exceeds the context of " +
                            std::to_string(context_));
    }
  }
}

void Engine::CheckPast(const Session& session) const {
  if (session.position() == 0 || session.weights_version_ == weights_version_) return;
  throw ModelError(
      "tensors were replaced or restored since the session's past was computed: rewind it to 0 or start a "
      "new session");
}

void Engine::Feed(const std::vector<Request>& requests, const Poll& poll, InputObserver* observer) {
  // A cancellation is a change of an epoch since the call began: none can be missed, none lingers.
  const uint64_t engine_epoch = cancel_epoch_.load();
  std::vector<uint64_t> epochs;
  for (const Request& request : requests) epochs.push_back(request.session->cancel_epoch_.load());
  auto checked_poll = [&] {
    bool cancelled = cancel_epoch_.load() != engine_epoch;
    for (size_t i = 0; i < requests.size(); ++i) {
      cancelled |= requests[i].session->cancel_epoch_.load() != epochs[i];
    }
    if (cancelled) throw Cancelled("the call was cancelled");
    poll();
  };
  auto readable_poll = [&] {
    file_->RequireReadable();
    checked_poll();
  };

  const Lock lock = Acquire(checked_poll);
  EnsureFaultHandler();
  file_->RequireReadable();
  Check(requests);
  paging_->Grow();
  const Poll layer_poll = readable_poll;
  try {
    for (const Request& request : requests) request.session->cache_.Reserve(request.ids.size());
    while (true) {
      try {
        RunBatches(requests, {.poll = &layer_poll, .observer = observer, .trace = trace_.get()});
        break;
      } catch (const MemoryLimit&) {
        // Fewer rows at a time need smaller buffers. An observer must see each row once.
        if (!paging_->streamed() || max_rows_ == 1 || observer != nullptr) throw;
        max_rows_ /= 2;
        if (trace_) trace_->Forget();
        ResetForward();
      }
    }
    file_->RequireReadable();
  } catch (...) {
    for (const Request& request : requests) request.session->cache_.Rewind(request.session->position());
    if (trace_) trace_->Forget();
    throw;
  }
  if (trace_) trace_->Keep();
  for (const Request& request : requests) {
    request.session->cache_.Advance(request.ids);
    request.session->weights_version_ = weights_version_;
  }
}

void Engine::RunBatches(const std::vector<Request>& requests, const Attendants& with) {
  std::vector<int32_t> ids;
  std::vector<int32_t> ordinals;  // for the trace
  std::vector<int32_t> positions;
  size_t total_rows = 0;
  for (const Request& request : requests) total_rows += request.ids.size();
  size_t most_rows = with.observer != nullptr ? std::min(max_rows_, kMaxBatchRows) : max_rows_;
  if (paging_->streamed()) {
    // Evenly: a small batch at the end would read nearly all experts once more.
    const size_t batches = (total_rows + most_rows - 1) / most_rows;
    most_rows = (total_rows + batches - 1) / batches;
  }
  std::vector<Segment> segments;
  std::vector<RowOutput> outputs;
  auto run = [&] {
    if (with.trace != nullptr) with.trace->Begin(ordinals, positions);
    if (!ids.empty()) forward_->Run(ids, segments, outputs, with);
    ids.clear();
    ordinals.clear();
    positions.clear();
    segments.clear();
    outputs.clear();
  };
  for (const Request& request : requests) {
    const size_t total = request.ids.size();
    for (size_t done = 0; done < total;) {
      const size_t count = std::min(total - done, most_rows - ids.size());
      segments.push_back({&request.session->cache_, ids.size(), count, request.session->position() + done});
      for (size_t i = done; i < done + count; ++i) {
        const size_t row = ids.size();
        ids.push_back(request.ids[i]);
        if (with.trace != nullptr) {
          ordinals.push_back(request.session->ordinal_);
          positions.push_back(static_cast<int32_t>(request.session->position() + i));
        }
        if (request.all_logits != nullptr) {
          outputs.push_back({.row = row, .logits = request.all_logits + i * config_.vocab});
        } else if (request.last_logits != nullptr && i + 1 == total) {
          outputs.push_back({.row = row, .logits = request.last_logits});
        } else if (request.log_probabilities != nullptr && i + 1 < total) {
          outputs.push_back(
              {.row = row, .log_probability = request.log_probabilities + i, .target = request.ids[i + 1]});
        }
      }
      done += count;
      if (ids.size() == most_rows) run();
    }
  }
  run();
  if (paging_->streamed() && most_rows > kKeptBatchRows) ResetForward();  // the memory is the experts' again
}

template <typename Body>
auto Engine::WithPaging(const Body& body) const {
  RefuseForked(pid_);
  const std::lock_guard lock(paging_mutex_);
  if (!paging_) throw ModelError("the model is closed");
  return body(*paging_);
}

PagingReport Engine::Paging() const {
  return WithPaging([this](ExpertPaging& paging) { return paging.Report(threads_); });
}

void Engine::ResetPaging() {
  WithPaging([](ExpertPaging& paging) { paging.Reset(); });
}

std::vector<float> Engine::ResidentExperts() const {
  return WithPaging([](ExpertPaging& paging) { return paging.Resident(); });
}

void Engine::DropExperts(const Poll& poll) {
  const Lock lock = Acquire(poll);
  paging_->Drop();
}

void Engine::StartTrace(bool probabilities, const Poll& poll) {
  const Lock lock = Acquire(poll);
  trace_ = std::make_unique<RouteTrace>(config_, probabilities);
}

RouteRecord Engine::TakeTrace(const Poll& poll) {
  const Lock lock = Acquire(poll);
  if (!trace_) throw ModelError("no routing is recorded: start a trace first");
  return trace_->Take();
}

void Engine::StopTrace(const Poll& poll) {
  const Lock lock = Acquire(poll);
  trace_.reset();
}

}  // namespace pygrok
