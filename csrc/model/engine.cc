#include "model/engine.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <unordered_set>

#include "kernels/registry.h"
#include "util/cpus.h"
#include "util/error.h"
#include "util/fork.h"

namespace pygrok {
namespace {

constexpr int kMaxThreads = 1024;
constexpr auto kPollInterval = std::chrono::milliseconds(20);

int ChooseThreads(int wanted) {
  if (wanted < 0 || wanted > kMaxThreads) {
    throw std::invalid_argument("threads is " + std::to_string(wanted) + ", expected 1 to " +
                                std::to_string(kMaxThreads) + " (or 0 for all that are available)");
  }
  return wanted == 0 ? AvailableCpus() : wanted;
}

size_t ChooseContext(size_t wanted, const Config& config) {
  if (wanted > config.context) {
    throw std::invalid_argument("context is " + std::to_string(wanted) + ", the model was made for at most " +
                                std::to_string(config.context));
  }
  return wanted == 0 ? config.context : wanted;
}

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options)
    : pid_(getpid()),
      kernels_(SelectTable(options.isa)),
      ledger_(std::make_shared<MemoryLedger>(options.memory_limit)) {
  const KvType kv_type = ParseKvType(options.kv_type);
  const Precision precision = ParsePrecision(options.activations);
  threads_ = ChooseThreads(options.threads);
  file_ = std::make_unique<Gguf>(path);
  config_ = ReadConfig(*file_);
  context_ = ChooseContext(options.context, config_);
  weights_ = FindWeights(*file_, config_, kernels_);
  tied_output_ = file_->FindTensor("output.weight") == nullptr;
  fingerprint_ = Fingerprint();
  file_->RequireReadable();
  layout_ = {kv_type, config_.layers, config_.kv_heads, config_.head_size};
  pool_ = std::make_unique<ThreadPool>(threads_);
  compute_ = std::make_unique<Compute>(kernels_, *pool_, ledger_.get(), precision);
  forward_ = std::make_unique<ForwardPass>(config_, weights_, *compute_);
}

std::shared_ptr<Session> Engine::NewSession() {
  return std::make_shared<Session>(shared_from_this(), KvCache(layout_, ledger_));
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
  try {
    for (const Request& request : requests) request.session->cache_.Reserve(request.ids.size());
    RunBatches(requests, readable_poll, observer);
    file_->RequireReadable();
  } catch (...) {
    for (const Request& request : requests) request.session->cache_.Rewind(request.session->position());
    throw;
  }
  for (const Request& request : requests) {
    request.session->cache_.Advance(request.ids);
    request.session->weights_version_ = weights_version_;
  }
}

void Engine::RunBatches(const std::vector<Request>& requests, const Poll& poll, InputObserver* observer) {
  std::vector<int32_t> ids;
  std::vector<Segment> segments;
  std::vector<RowOutput> outputs;
  auto run = [&] {
    if (!ids.empty()) forward_->Run(ids, segments, outputs, poll, observer);
    ids.clear();
    segments.clear();
    outputs.clear();
  };
  for (const Request& request : requests) {
    const size_t total = request.ids.size();
    for (size_t done = 0; done < total;) {
      const size_t count = std::min(total - done, kMaxBatchRows - ids.size());
      segments.push_back({&request.session->cache_, ids.size(), count, request.session->position() + done});
      for (size_t i = done; i < done + count; ++i) {
        const size_t row = ids.size();
        ids.push_back(request.ids[i]);
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
      if (ids.size() == kMaxBatchRows) run();
    }
  }
  run();
}

}  // namespace pygrok
