#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "io/atomic_file.h"
#include "model/engine.h"
#include "util/error.h"

namespace pygrok {
namespace {

// A saved session: this header, the position's count of token ids (int32), then per KV block and
// [layer][kv_head][K, V] the vectors of the positions in use, one after the other.
struct SessionHeader {
  char magic[16];
  uint32_t version;
  uint32_t kv_type;
  uint64_t fingerprint;  // of the model
  uint64_t position;
  uint64_t checksum;  // of all that follows
};
static_assert(sizeof(SessionHeader) == 48);

constexpr char kMagic[16] = "pygrok.session";
constexpr uint32_t kVersion = 1;

// FNV-1a, over words where there are whole ones: enough to notice damage.
class Checksum {
 public:
  void Add(const void* data, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; bytes >= 8; p += 8, bytes -= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      Mix(word);
    }
    for (; bytes > 0; ++p, --bytes) Mix(*p);
  }
  template <typename T>
  void AddValue(const T& value) {
    Add(&value, sizeof(value));
  }
  uint64_t value() const { return hash_; }

 private:
  void Mix(uint64_t word) { hash_ = (hash_ ^ word) * 0x100000001b3; }
  uint64_t hash_ = 0xcbf29ce484222325;
};

// Calls body(run, whether it holds keys, positions in use) for every run, in file order.
template <typename Body>
void ForEachRun(const KvCache& cache, size_t position, const Body& body) {
  const KvLayout& layout = cache.layout();
  for (size_t first = 0; first < position; first += kKvBlockPositions) {
    const size_t count = std::min(position - first, kKvBlockPositions);
    std::byte* block = cache.block(first / kKvBlockPositions);
    for (size_t layer = 0; layer < layout.layers; ++layer) {
      for (size_t head = 0; head < layout.kv_heads; ++head) {
        body(block + layout.key_offset(layer, head), true, count);
        body(block + layout.value_offset(layer, head), false, count);
      }
    }
  }
}

// Calls body(data, bytes) for the vectors of every run, one after the other, in file order.
template <typename Body>
void ForEachVectors(const KvCache& cache, size_t position, const Body& body) {
  const KvLayout& layout = cache.layout();
  std::vector<std::byte> vectors(layout.run_bytes());
  ForEachRun(cache, position, [&](const std::byte* run, bool keys, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      std::byte* vector = vectors.data() + i * layout.vector_bytes();
      keys ? layout.TakeKey(run, i, vector) : layout.TakeValue(run, i, vector);
    }
    body(vectors.data(), count * layout.vector_bytes());
  });
}

size_t PayloadBytes(const KvLayout& layout, size_t position) {
  return (sizeof(int32_t) + layout.layers * layout.kv_heads * 2 * layout.vector_bytes()) * position;
}

}  // namespace

uint64_t Engine::Fingerprint() const {
  Checksum sum;
  sum.AddValue(config_.attention_multiplier);
  sum.AddValue(config_.rope_base);
  for (const GgufTensor& tensor : file_->tensors()) {
    sum.Add(tensor.name.data(), tensor.name.size());
    sum.AddValue(tensor.type);
    for (const size_t dimension : tensor.shape) sum.AddValue(dimension);
  }
  // Tells trainings of one architecture apart.
  sum.Add(weights_.output_norm, config_.embedding * sizeof(float));
  return sum.value();
}

void Session::Rewind(size_t position, const Poll& poll) {
  const Engine::Lock lock = engine_->Acquire(poll);
  if (position > cache_.position()) {
    throw std::invalid_argument("cannot rewind to position " + std::to_string(position) +
                                ", the session is at " + std::to_string(cache_.position()));
  }
  cache_.Rewind(position);
}

std::shared_ptr<Session> Session::Fork(const Poll& poll) const {
  const Engine::Lock lock = engine_->Acquire(poll);
  auto fork = std::make_shared<Session>(engine_, cache_, engine_->sessions_made_++);
  fork->weights_version_ = weights_version_;
  return fork;
}

void Session::Save(const std::string& path, const Poll& poll) const {
  const Engine::Lock lock = engine_->Acquire(poll);
  const size_t position = cache_.position();
  if (position > 0 && weights_version_ != 0) {
    throw ModelError("the session's past was computed with replaced tensors: it fits no saved model");
  }
  const std::vector<int32_t> ids = cache_.ids();
  Checksum sum;
  sum.Add(ids.data(), ids.size() * sizeof(int32_t));
  ForEachVectors(cache_, position, [&](const std::byte* data, size_t bytes) { sum.Add(data, bytes); });
  SessionHeader header = {
      {},       kVersion,   static_cast<uint32_t>(cache_.layout().type), engine_->fingerprint_,
      position, sum.value()};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));

  AtomicFile file(path);
  file.Write(&header, sizeof(header));
  file.Write(ids.data(), ids.size() * sizeof(int32_t));
  ForEachVectors(cache_, position, [&](const std::byte* data, size_t bytes) { file.Write(data, bytes); });
  file.Commit();
}

void Session::Restore(const std::string& path, const Poll& poll) {
  const Engine::Lock lock = engine_->Acquire(poll);
  const MappedFile file(path);
  auto require = [&](bool condition, const std::string& message) {
    if (!condition) throw FormatError(path + ": " + message);
  };
  SessionHeader header;
  require(file.size() >= sizeof(header), "too short for a saved session");
  std::memcpy(&header, file.data(), sizeof(header));
  require(std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0, "not a saved session of pygrok");
  require(header.version == kVersion, "session file version " + std::to_string(header.version) +
                                          " is not supported, expected " + std::to_string(kVersion));
  require(header.fingerprint == engine_->fingerprint_, "the session was saved with another model");
  const KvLayout& layout = cache_.layout();
  require(header.kv_type == static_cast<uint32_t>(layout.type),
          std::string("the session was saved with another kv_type; this model was loaded with ") +
              KvTypeName(layout.type));
  if (header.position > engine_->context()) {
    throw ContextOverflow(path + ": the saved session has " + std::to_string(header.position) +
                          " positions, the context is " + std::to_string(engine_->context()));
  }
  const size_t position = header.position;
  require(file.size() - sizeof(header) == PayloadBytes(layout, position),
          "damaged: " + std::to_string(file.size()) + " bytes instead of " +
              std::to_string(sizeof(header) + PayloadBytes(layout, position)));

  KvCache restored(layout, engine_->ledger_);
  restored.Reserve(position);
  std::vector<int32_t> ids(position);
  const std::byte* from = file.data() + sizeof(header);
  std::memcpy(ids.data(), from, position * sizeof(int32_t));
  from += position * sizeof(int32_t);
  Checksum sum;
  sum.Add(ids.data(), position * sizeof(int32_t));
  ForEachRun(restored, position, [&](std::byte* run, bool keys, size_t count) {
    sum.Add(from, count * layout.vector_bytes());
    for (size_t i = 0; i < count; ++i, from += layout.vector_bytes()) {
      keys ? layout.PutKey(from, i, run) : layout.PutValue(from, i, run);
    }
  });
  file.RequireReadable();
  require(sum.value() == header.checksum, "damaged: the checksum does not match");
  for (const int32_t id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < engine_->config().vocab,
            "damaged: token " + std::to_string(id) + " is not in the vocabulary");
  }
  restored.Advance(ids);
  cache_.Swap(restored);
  weights_version_ = 0;
}

}  // namespace pygrok
