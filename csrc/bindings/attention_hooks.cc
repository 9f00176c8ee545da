#include "bindings/attention_hooks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "model/attention.h"
#include "model/kv_cache.h"
#include "util/memory_ledger.h"
#include "util/thread_pool.h"

namespace py = pybind11;

namespace pygrok {
namespace {

constexpr size_t kRows = 512;  // stored at a time

std::vector<float> Normal(size_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = normal(generator);
  return x;
}

// Times the attention of `rows` positions after `past` others, in each of `layers` layers by turns: of many
// layers, none finds its keys and values in a cache.
double TimeAttention(const std::string& kv_type, size_t heads, size_t kv_heads, size_t head_size, size_t past,
                     size_t rows, size_t layers, const std::string& isa, int threads, int repeats) {
  const KernelTable& kernels = SelectTable(isa);
  if (kv_heads == 0 || heads == 0 || heads % kv_heads != 0 || head_size == 0 || head_size % 2 != 0) {
    throw std::invalid_argument("heads must be a multiple of kv_heads, head_size even");
  }
  if (rows == 0 || layers == 0 || threads < 1 || threads > 1024 || repeats < 1) {
    throw std::invalid_argument("rows, layers, threads and repeats must be 1 or more");
  }
  Config config = {};
  config.layers = layers;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_size = head_size;
  config.attention_multiplier = 1.0f / std::sqrt(static_cast<float>(head_size));
  config.attention_soft_cap = 30.0f;
  config.rope_base = 10000.0f;
  const KvLayout layout = {ParseKvType(kv_type), layers, kv_heads, head_size};
  const py::gil_scoped_release release;

  const auto ledger = std::make_shared<MemoryLedger>(0);
  ThreadPool pool(threads);
  Compute compute(kernels, pool, ledger.get(), Precision::kInt8);
  Attention attention(config, compute);
  RotaryTable rotary(ledger.get());
  KvCache cache(layout, ledger);
  cache.Reserve(past + rows);
  const std::vector<float> values = Normal(kRows * config.kv_width());
  std::vector<float> keys;
  for (size_t first = 0; first < past + rows; first += kRows) {
    const std::vector<Segment> segments = {{&cache, 0, std::min(kRows, past + rows - first), first}};
    rotary.Set(segments, head_size, config.rope_base);
    for (size_t layer = 0; layer < layers; ++layer) {
      keys = values;
      attention.Store(layer, segments, rotary, keys.data(), values.data());
    }
  }

  const std::vector<Segment> segments = {{&cache, 0, rows, past}};
  rotary.Set(segments, head_size, config.rope_base);
  std::vector<size_t> all(rows);
  std::iota(all.begin(), all.end(), size_t{0});
  const std::vector<float> q = Normal(rows * config.q_width());
  std::vector<float> out(rows * config.q_width());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) {
    attention.Attend(static_cast<size_t>(i) % layers, segments, all, rotary, q.data(), out.data());
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void BindAttentionHooks(py::module_& hooks) {
  hooks.def("time_attention", &TimeAttention, py::arg("kv_type"), py::arg("heads"), py::arg("kv_heads"),
            py::arg("head_size"), py::arg("past"), py::arg("rows"), py::arg("layers"), py::arg("isa"),
            py::arg("threads"), py::arg("repeats"));
}

}  // namespace pygrok
