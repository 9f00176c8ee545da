// A loaded model: file, weights, threads, and the one entry point for computing on sessions.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "model/expert_paging.h"
#include "model/forward.h"
#include "model/route_trace.h"

namespace pygrok {

struct EngineOptions {
  int threads = 0;     // 0 = all that add speed, see thread_choice.h
  size_t context = 0;  // 0 = the model's own
  std::string kv_type = "f16";
  size_t memory_limit = 0;  // bytes for weights, KV caches and working buffers; 0 = no limit
  std::string isa;          // empty = $PYGROK_ISA or the best
  std::string activations;  // "int8", "int16", "int24", or empty = by type, see Precision
  PagingOptions paging;
};

class Engine;

// Called often while a call waits or computes; what it throws ends the call.
using Poll = std::function<void()>;

// A sequence of tokens and its cache. All methods may be called from any thread. Those that take a `poll`
// wait for a running call, and throw ModelError in a forked child or when the engine is closed. They work on
// when the model's file can no longer be read: a session can be saved, and restored on the model loaded anew.
class Session {
 public:
  Session(std::shared_ptr<Engine> engine, const KvCache& cache, int32_t ordinal)
      : engine_(std::move(engine)), cache_(cache), ordinal_(ordinal) {}

  size_t position() const { return cache_.position(); }
  std::vector<int32_t> ids() const { return cache_.ids(); }
  size_t kv_bytes() const { return cache_.bytes(); }
  // Forgets all positions from `position` on. Throws std::invalid_argument beyond the current one.
  void Rewind(size_t position, const Poll& poll);
  // A session with the same past, sharing its blocks.
  std::shared_ptr<Session> Fork(const Poll& poll) const;
  // Writes beside `path`, then renames. Throws std::system_error.
  void Save(const std::string& path, const Poll& poll) const;
  // Replaces the past by a saved one. Throws FormatError (and keeps the old past) if the file is damaged or
  // of another model or kv_type.
  void Restore(const std::string& path, const Poll& poll);
  // The call that is running on this session, or waiting to, throws Cancelled.
  void Cancel() { ++cancel_epoch_; }

 private:
  friend class Engine;
  std::shared_ptr<Engine> engine_;
  KvCache cache_;
  const int32_t ordinal_;         // among the engine's sessions
  uint64_t weights_version_ = 0;  // Engine::weights_version_ when the past was computed
  std::atomic<uint64_t> cancel_epoch_{0};
};

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  // Reads what is always needed, and what is pinned, of a model that exceeds its memory; maps any other.
  // Throws FormatError, ModelError, MemoryLimit, std::invalid_argument, std::system_error.
  Engine(const std::string& path, const EngineOptions& options, const Poll& poll);

  const Config& config() const { return config_; }
  const char* isa() const { return kernels_.name; }
  const char* kv_type() const { return KvTypeName(layout_.type); }
  int threads() const { return threads_; }
  size_t context() const { return context_; }
  size_t memory_used() const { return ledger_->used(); }  // weights, KV caches, working buffers, in bytes
  size_t kv_block_bytes() const { return layout_.block_bytes(); }

  std::shared_ptr<Session> NewSession();

  struct Request {
    Session* session;
    std::span<const int32_t> ids;        // non-empty, each below vocab
    float* all_logits = nullptr;         // [ids][vocab], or
    float* last_logits = nullptr;        // [vocab], or
    float* log_probabilities = nullptr;  // [ids - 1]: of each id but the first, given those before it
  };
  // Appends each request's ids to its session, all in one ragged forward. `poll` is called often and may
  // throw. On any exception no session has changed. Throws std::invalid_argument, ContextOverflow,
  // MemoryLimit, Cancelled, ModelError (a past computed with other weights), FormatError when a page of the
  // file cannot be read, from then on for good. An observer sees the inputs of every row; the results stay
  // the same bits.
  void Feed(const std::vector<Request>& requests, const Poll& poll, InputObserver* observer = nullptr);

  // Puts a copy of other bytes, [rows][row bytes of `type`], in the place of a tensor of the file. Sessions
  // with a past computed before refuse to go on until they are rewound to 0 or the weights are what they
  // were. Throws std::invalid_argument (no such tensor, wrong type or size), ModelError, MemoryLimit.
  void ReplaceTensor(const std::string& name, TensorType type, std::span<const std::byte> data,
                     const Poll& poll);
  // Goes back to the file's tensor. Throws std::invalid_argument if it was not replaced.
  void RestoreTensor(const std::string& name, const Poll& poll);

  // How experts come into memory, and what it cost. Answers while another thread computes.
  PagingReport Paging() const;
  void ResetPaging();
  std::vector<float> ResidentExperts() const;  // [layers][experts] share of the bytes that are in memory
  // Forgets the experts that were read.
  void DropExperts(const Poll& poll);

  // Records each token's routing from now on, anew if it did already. Throws ModelError.
  void StartTrace(bool probabilities, const Poll& poll);
  // What was recorded since; recording goes on. Throws ModelError if none was started.
  RouteRecord TakeTrace(const Poll& poll);
  // Forgets what was not taken. Nothing if none was started.
  void StopTrace(const Poll& poll);

  // Whether the embedding is the output matrix too.
  bool tied_output() const { return tied_output_; }

  // Calls that are running or waiting throw Cancelled.
  void Cancel() { ++cancel_epoch_; }

  // Cancels running calls, then lets go of the file and the threads; using the engine later throws
  // ModelError.
  void Close();

 private:
  friend class Session;
  using Lock = std::unique_lock<std::timed_mutex>;

  void Check(const std::vector<Request>& requests) const;
  void CheckPast(const Session& session) const;
  void RunBatches(const std::vector<Request>& requests, const Attendants& with);
  // Buffers that a batch of rows needs, at most.
  size_t BatchBytes(size_t rows) const;
  // Makes forward_ anew, without buffers.
  void ResetForward();
  // Calls body(paging), which stays until it returns. Throws ModelError when closed or in a forked child.
  template <typename Body>
  auto WithPaging(const Body& body) const;
  // Takes the lock and makes sure that the engine is open and not a forked copy.
  Lock Acquire(const Poll& poll);
  uint64_t Fingerprint() const;  // of the model, for saved sessions; reads the file

  const int pid_;
  std::unique_ptr<Gguf> file_;
  const KernelTable& kernels_;
  Config config_;
  Weights weights_;
  bool tied_output_;
  uint64_t fingerprint_;  // kept, so that sessions can be saved when the file can no longer be read
  Replacements replacements_;
  std::map<std::string, AlignedBuffer<std::byte>> replaced_bytes_;  // what replacements_ point to
  uint64_t weights_version_ = 0;                                    // 0: the file's own weights
  uint64_t versions_ = 0;                                           // numbers given out
  KvLayout layout_;
  size_t context_;
  int threads_;
  std::shared_ptr<MemoryLedger> ledger_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Compute> compute_;
  mutable std::mutex paging_mutex_;  // over the pointer
  std::unique_ptr<ExpertPaging> paging_;
  size_t max_rows_ = kMaxBatchRows;  // of a batch
  std::unique_ptr<RouteTrace> trace_;
  std::atomic<int32_t> sessions_made_{0};
  std::unique_ptr<ForwardPass> forward_;
  std::timed_mutex mutex_;  // held while computing or changing a session
  std::atomic<uint64_t> cancel_epoch_{0};
};

}  // namespace pygrok
