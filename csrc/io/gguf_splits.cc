// Split sets: PREFIX-00001-of-000NN.gguf. Metadata of the model is in the first shard; each shard carries its
// own split.no (from 0), split.count and split.tensors.count (of the whole set).
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>

#include "io/gguf.h"
#include "io/gguf_shard.h"
#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

struct SplitName {
  std::string prefix;
  uint64_t number;  // from 1
  uint64_t count;
};

std::optional<uint64_t> FiveDigits(std::string_view text) {
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

std::optional<SplitName> ParseSplitName(std::string_view path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() < kPattern.size()) return std::nullopt;
  const std::string_view end = path.substr(path.size() - kPattern.size());
  if (end[0] != '-' || end.substr(6, 4) != "-of-" || !end.ends_with(".gguf")) return std::nullopt;
  const auto number = FiveDigits(end.substr(1, 5));
  const auto count = FiveDigits(end.substr(10, 5));
  if (!number || !count || *number < 1 || *number > *count) return std::nullopt;
  return SplitName{std::string(path.substr(0, path.size() - kPattern.size())), *number, *count};
}

std::string ShardPath(const SplitName& name, uint64_t number) {
  char end[64];
  std::snprintf(end, sizeof end, "-%05llu-of-%05llu.gguf", static_cast<unsigned long long>(number),
                static_cast<unsigned long long>(name.count));
  return name.prefix + end;
}

std::string NumberOf(uint64_t number, uint64_t count) {
  return std::to_string(number) + " of " + std::to_string(count);
}

// The keys of one shard say what its place in the set needs.
void CheckShard(const GgufMetadata& metadata, uint64_t number, uint64_t count, uint64_t tensors) {
  const auto expect = [&](const char* key, uint64_t wanted) {
    const std::optional<uint64_t> found = metadata.Uint(key);
    if (found == wanted) return;
    metadata.Fail(key, (found ? "is " + std::to_string(*found) : std::string("is missing")) + ", must be " +
                           std::to_string(wanted) + " in shard " + NumberOf(number, count) +
                           ": the file belongs to another set: download it again");
  };
  expect("split.count", count);
  expect("split.no", number - 1);
  expect("split.tensors.count", tensors);
}

MappedFile OpenShard(const SplitName& name, uint64_t number) {
  try {
    return MappedFile(ShardPath(name, number));
  } catch (const std::system_error& error) {
    if (error.code().value() != ENOENT) throw;
    throw FormatError(Printable(ShardPath(name, number)) + ": shard " + NumberOf(number, name.count) +
                      " of the split model is missing: download it to where shard 1 is");
  }
}

}  // namespace

void Gguf::OpenShards() {
  const std::optional<SplitName> name = ParseSplitName(path());
  const std::optional<uint64_t> count = metadata_.Uint("split.count");
  if (count.value_or(1) <= 1) {
    if (name && name->count > 1) {
      metadata_.Fail("split.count", (count ? "is " + std::to_string(*count) : std::string("is missing")) +
                                        ", but the file is named as shard " +
                                        NumberOf(name->number, name->count) +
                                        ": rename it if it is a whole model, else download it again");
    }
    return;
  }
  if (!name) {
    metadata_.Fail("split.count", "is " + std::to_string(*count) + ", but a shard must be named like model" +
                                      ShardPath({"", 1, *count < 99999 ? *count : 99999}, 1) +
                                      " for the others to be found: give the file its name back");
  }
  if (name->number != 1) {
    metadata_.Fail("split.no", "this is shard " + NumberOf(name->number, name->count) + ": open the first, " +
                                   Printable(ShardPath(*name, 1)) + ", instead");
  }
  const std::optional<uint64_t> total = metadata_.Uint("split.tensors.count");
  if (!total) metadata_.Fail("split.tensors.count", "is missing: the file is damaged: download it again");
  CheckShard(metadata_, 1, name->count, *total);

  for (uint64_t i = 2; i <= name->count; ++i) {
    files_.push_back(OpenShard(*name, i));
    GgufShard shard = ParseGgufShard(files_.back(), files_.size() - 1);
    CheckShard(shard.metadata, i, name->count, *total);
    AddTensors(std::move(shard.tensors));
  }
  if (tensors_.size() != *total) {
    metadata_.Fail("split.tensors.count", "is " + std::to_string(*total) + ", but the " +
                                              std::to_string(files_.size()) + " shards hold " +
                                              std::to_string(tensors_.size()) +
                                              " tensors: download the set again");
  }
}

}  // namespace pygrok
