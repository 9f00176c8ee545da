#include "io/fault_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace pygrok {

// What the handler reads is only ever added to or changed atomically, without locks: a fault may come at any
// instruction, and a forked child must find no lock held.
struct GuardedRange::Record {
  std::atomic<bool> taken{true};
  std::atomic<uintptr_t> begin{UINTPTR_MAX};  // UINTPTR_MAX: guards nothing
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> broken{false};
  Record* next = nullptr;
};

// Records are reused and never freed.
struct FaultRegistry {
  using Record = GuardedRange::Record;

  static inline constinit std::atomic<Record*> head{nullptr};

  static Record* Take() {
    for (Record* record = head.load(); record != nullptr; record = record->next) {
      bool taken = false;
      if (record->taken.compare_exchange_strong(taken, true)) return record;
    }
    auto* record = new Record;
    record->next = head.load();
    while (!head.compare_exchange_weak(record->next, record)) {
    }
    return record;
  }

  static Record* Find(uintptr_t address, uintptr_t* end) {
    for (Record* record = head.load(); record != nullptr; record = record->next) {
      const uintptr_t begin = record->begin.load();
      *end = record->end.load();
      // The second look: begin and end must be of one range, not of two that follow each other.
      if (address >= begin && address < *end && record->begin.load() == begin) return record;
    }
    return nullptr;
  }

  // Zeros from the page of `address` on. To the end and not for that page alone: after a truncation all that
  // follows is gone too, and a mapping of single pages would run into the system's limit on mappings.
  static bool Mend(uintptr_t address) {
    uintptr_t end = 0;
    Record* record = Find(address, &end);
    if (record == nullptr) return false;
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = address / page * page;
    record->broken.store(true);
    return mmap(reinterpret_cast<void*>(begin), end - begin, PROT_READ,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
};

namespace {

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

// A handler that was there before ours.
struct Action {
  struct sigaction action;
  Action* next;
};

constinit std::atomic<Action*> actions{
    nullptr};  // all ever seen; never freed, since a handler may be reading
constinit std::atomic<const Action*> original{nullptr};  // found at the first installation
constinit std::atomic<const Action*> previous{nullptr};  // found at the latest
constinit std::atomic<const void*> chaining{nullptr};    // thread inside the previous handler

// A previous handler that returns without mending anything (one that was switched off) faults again at once.
constexpr int kMostRepeats = 1000;
constinit std::atomic<uintptr_t> last_address{0};
constinit std::atomic<int> repeats{0};

void DieOf(int signal, bool sent) {
  struct sigaction fallback = {};
  fallback.sa_handler = SIG_DFL;
  sigaction(signal, &fallback, nullptr);
  if (sent) raise(signal);  // an access need only be repeated: the core file then shows where it was
}

void Chain(int signal, siginfo_t* info, void* context) {
  const bool sent = info->si_code <= 0;
  const void* const self = &errno;  // differs between threads
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (!sent) repeats = last_address.exchange(address) == address ? repeats + 1 : 0;
  // A handler installed over ours raises the signal again when it has done its work, and means us.
  const bool nested = sent && chaining.load() == self;
  const Action* const found = nested ? original.load() : previous.load();
  const bool exhausted = !sent && repeats > kMostRepeats;
  if (found == nullptr || found->action.sa_handler == SIG_DFL || exhausted) return DieOf(signal, sent);
  if (found->action.sa_handler == SIG_IGN) {
    if (!sent) DieOf(signal, sent);  // such faults cannot be ignored
    return;
  }
  chaining = self;
  if ((found->action.sa_flags & SA_SIGINFO) != 0) {
    found->action.sa_sigaction(signal, info, context);
  } else {
    found->action.sa_handler(signal);
  }
  chaining = nullptr;
}

void Handle(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  if (info->si_code <= 0 || !FaultRegistry::Mend(reinterpret_cast<uintptr_t>(info->si_addr))) {
    Chain(signal, info, context);
  }
  errno = saved;
}

bool IsOurs(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == &Handle;
}

bool SameAction(const struct sigaction& a, const struct sigaction& b) {
  return a.sa_flags == b.sa_flags && a.sa_handler == b.sa_handler;
}

// nullptr without memory: faults elsewhere then get the default.
const Action* Remember(const struct sigaction& action) {
  for (const Action* known = actions.load(); known != nullptr; known = known->next) {
    if (SameAction(known->action, action)) return known;
  }
  auto* added = new (std::nothrow) Action{action, actions.load()};
  if (added == nullptr) return nullptr;
  while (!actions.compare_exchange_weak(added->next, added)) {
  }
  return added;
}

}  // namespace

void EnsureFaultHandler() noexcept {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGBUS);
  pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);  // a fault on a blocked signal kills

  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) != 0 || IsOurs(current)) return;
  const Action* const found = Remember(current);
  const Action* none = nullptr;
  original.compare_exchange_strong(none, found);
  previous = found;
  struct sigaction ours = {};
  ours.sa_sigaction = &Handle;
  // ONSTACK: the thread may be short of stack. NODEFER: a fault in a previous handler must not hang.
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&ours.sa_mask);
  sigaction(SIGBUS, &ours, nullptr);
}

GuardedRange::GuardedRange(std::span<const std::byte> bytes) : record_(FaultRegistry::Take()) {
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  record_->broken = false;
  record_->end = begin + (bytes.size() + page - 1) / page * page;
  record_->begin = begin;  // last: from here on it counts
  EnsureFaultHandler();
}

GuardedRange::~GuardedRange() {
  if (record_ == nullptr) return;
  record_->begin = UINTPTR_MAX;
  record_->end = 0;
  record_->taken = false;
}

GuardedRange::GuardedRange(GuardedRange&& other) noexcept : record_(std::exchange(other.record_, nullptr)) {}

GuardedRange& GuardedRange::operator=(GuardedRange&& other) noexcept {
  std::swap(record_, other.record_);
  return *this;
}

bool GuardedRange::broken() const { return record_ != nullptr && record_->broken.load(); }

}  // namespace pygrok
