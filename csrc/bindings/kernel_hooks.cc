#include "bindings/kernel_hooks.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/attention_hooks.h"
#include "kernels/activations.h"
#include "kernels/registry.h"
#include "model/kv_cache.h"
#include "util/aligned.h"
#include "util/thread_pool.h"

namespace py = pybind11;

namespace pygrok {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Raw = py::array_t<uint8_t, py::array::c_style>;

const std::byte* BytesOf(const Raw& array) { return reinterpret_cast<const std::byte*>(array.data()); }

size_t Size(const py::array& array, int axis) { return static_cast<size_t>(array.shape(axis)); }

void RequireDimensions(const py::array& array, const char* name, py::ssize_t dimensions) {
  if (array.ndim() != dimensions) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(dimensions) +
                                " dimension(s), not " + std::to_string(array.ndim()));
  }
}

void RequireSize(size_t size, size_t expected, const char* what) {
  if (size != expected) {
    throw std::invalid_argument(std::string(what) + " is " + std::to_string(size) + ", must be " +
                                std::to_string(expected));
  }
}

const TensorTypeInfo& TypeNamed(const std::string& name, const KernelTable& kernels) {
  const TensorTypeInfo* info = FindTensorType(std::string_view(name));
  if (info == nullptr) throw std::invalid_argument("unknown tensor type '" + name + "'");
  if (kernels.of(info->type).matmul == nullptr) {
    throw std::invalid_argument("the engine cannot run tensor type '" + name + "'");
  }
  return *info;
}

// The number of values must be whole blocks, and the rows must have the bytes that they take.
void RequireRows(const TensorTypeInfo& info, const Raw& data, size_t k) {
  RequireDimensions(data, "data", 2);
  if (k == 0 || k % info.block_size != 0) {
    throw std::invalid_argument(std::string("columns must be a multiple of ") +
                                std::to_string(info.block_size) + " for " + info.name);
  }
  RequireSize(Size(data, 1), RowBytes(info.type, k), "bytes of a row");
}

// A cache of one layer with one head of d values.
KvLayout HeadLayout(const std::string& kv_type, size_t d) {
  const KvType type = ParseKvType(kv_type);
  RequireHeadSize(type, d, "d");
  return {type, 1, 1, d};
}

Floats DequantizeRows(const std::string& type, const Raw& data, size_t columns, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  const TensorTypeInfo& info = TypeNamed(type, kernels);
  RequireRows(info, data, columns);
  const size_t rows = Size(data, 0), row_bytes = Size(data, 1);
  Floats out({rows, columns});
  float* to = out.mutable_data();
  const std::byte* from = BytesOf(data);
  const py::gil_scoped_release release;
  for (size_t r = 0; r < rows; ++r)
    kernels.of(info.type).dequantize(from + r * row_bytes, columns, to + r * columns);
  return out;
}

// The rows of x as prepare makes them.
AlignedBuffer<std::byte> PrepareRows(const KernelTable& kernels, ActivationFormat format, const float* x,
                                     size_t n, size_t k) {
  const size_t row_bytes = ActivationRowBytes(format, k);
  AlignedBuffer<std::byte> rows(n * row_bytes);
  if (n * row_bytes != 0) std::memset(rows.data(), 0, n * row_bytes);
  for (size_t t = 0; t < n; ++t) kernels.prepare(format, x + t * k, k, rows.data() + t * row_bytes);
  return rows;
}

// The same in pieces, as matmul_many wants them.
AlignedBuffer<std::byte> InPieces(const AlignedBuffer<std::byte>& rows, size_t n) {
  AlignedBuffer<std::byte> pieces(rows.size());
  const size_t of_row = rows.size() / n / kPieceBytes;
  for (size_t i = 0; i < n * of_row; ++i) {
    std::memcpy(pieces.data() + (i % of_row * n + i / of_row) * kPieceBytes, rows.data() + i * kPieceBytes,
                kPieceBytes);
  }
  return pieces;
}

// Values between the rows of an output and bytes behind the scratch, which no kernel may touch.
constexpr size_t kGuardFloats = 3;
constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;

void FillGuard(void* p, size_t bytes) { std::memset(p, kGuard, bytes); }

void CheckGuard(const void* p, size_t bytes, const char* what) {
  const uint8_t* guard = static_cast<const uint8_t*>(p);
  if (!std::all_of(guard, guard + bytes, [](uint8_t b) { return b == kGuard; })) {
    throw std::runtime_error(std::string("a kernel wrote outside ") + what);
  }
}

// A table's way to multiply: matmul, or matmul_many.
struct Way {
  ActivationFormat activation;
  void (*matmul)(const MatmulArgs& args);
};

Way WayOf(const WeightKernels& kernels, bool many, size_t n, size_t k) {
  if (!many) return {kernels.activation, kernels.matmul};
  if (kernels.matmul_many == nullptr) throw std::invalid_argument("this table has no such kernel");
  if (n < kManyTokens || k % kBlockValues != 0) {
    throw std::invalid_argument("many tokens are " + std::to_string(kManyTokens) +
                                " or more, of a multiple of 32 values");
  }
  return {kernels.many_activation, kernels.matmul_many};
}

bool HasMany(const std::string& type, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  return kernels.of(TypeNamed(type, kernels).type).matmul_many != nullptr;
}

Floats Matmul(const std::string& type, const Raw& weights, const Floats& x, const std::string& isa,
              bool many) {
  const KernelTable& kernels = SelectTable(isa);
  const TensorTypeInfo& info = TypeNamed(type, kernels);
  RequireDimensions(x, "x", 2);
  const size_t n = Size(x, 0), k = Size(x, 1);
  RequireRows(info, weights, k);
  const Way way = WayOf(kernels.of(info.type), many, n, k);
  const size_t rows = Size(weights, 0);
  const size_t stride = rows + kGuardFloats;
  Floats result({n, rows});
  float* to = result.mutable_data();
  const float* from = x.data();
  const std::byte* data = BytesOf(weights);
  const py::gil_scoped_release release;

  AlignedBuffer<std::byte> prepared = PrepareRows(kernels, way.activation, from, n, k);
  if (many) prepared = InPieces(prepared, n);
  const AlignedBuffer<std::byte> scratch(kScratchBytes + kGuardBytes);
  FillGuard(scratch.data(), kScratchBytes + kGuardBytes);
  std::vector<float> out(kGuardFloats + n * stride);
  FillGuard(out.data(), out.size() * sizeof(float));
  way.matmul({.weights = data,
              .row_bytes = RowBytes(info.type, k),
              .rows = rows,
              .k = k,
              .activations = prepared.data(),
              .n = n,
              .out = out.data() + kGuardFloats,
              .out_stride = stride,
              .scratch = scratch.data(),
              .piece_stride = n * kPieceBytes});
  CheckGuard(scratch.data() + kScratchBytes, kGuardBytes, "its scratch");
  CheckGuard(out.data(), kGuardFloats * sizeof(float), "its output");
  for (size_t t = 0; t < n; ++t) {
    const float* row = out.data() + kGuardFloats + t * stride;
    CheckGuard(row + rows, kGuardFloats * sizeof(float), "its output");
    std::copy(row, row + rows, to + t * rows);
  }
  return result;
}

// Times `repeats` calls of a matmul shared out over threads as the engine does it.
double TimeMatmul(const std::string& type, const Raw& weights, const Floats& x, const std::string& isa,
                  int threads, int repeats, bool many) {
  const KernelTable& kernels = SelectTable(isa);
  const TensorTypeInfo& info = TypeNamed(type, kernels);
  RequireDimensions(x, "x", 2);
  const size_t n = Size(x, 0), k = Size(x, 1);
  RequireRows(info, weights, k);
  if (threads < 1 || threads > 1024 || repeats < 1)
    throw std::invalid_argument("threads and repeats must be 1 or more");
  const Way way = WayOf(kernels.of(info.type), many, n, k);
  const size_t rows = Size(weights, 0);
  const size_t task_rows =
      RoundUp(std::clamp<size_t>(rows / (8 * static_cast<size_t>(threads)), 1, 8 * kRowTile), kRowTile);
  const float* from = x.data();
  const std::byte* data = BytesOf(weights);
  const py::gil_scoped_release release;

  AlignedBuffer<std::byte> prepared = PrepareRows(kernels, way.activation, from, n, k);
  if (many) prepared = InPieces(prepared, n);
  ThreadPool pool(threads);
  const AlignedBuffer<std::byte> scratch(kScratchBytes * static_cast<size_t>(pool.size()));
  const AlignedBuffer<float> out(n * rows);
  const size_t row_bytes = RowBytes(info.type, k);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) {
    pool.Run((rows + task_rows - 1) / task_rows, [&](size_t task, size_t worker) {
      const size_t row = task * task_rows;
      way.matmul({.weights = data + row * row_bytes,
                  .row_bytes = row_bytes,
                  .rows = std::min(task_rows, rows - row),
                  .k = k,
                  .activations = prepared.data(),
                  .n = n,
                  .out = out.data() + row,
                  .out_stride = rows,
                  .scratch = scratch.data() + worker * kScratchBytes,
                  .piece_stride = n * kPieceBytes});
    });
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

py::array_t<uint8_t> PrepareHook(const std::string& format, const Floats& x, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(x, "x", 2);
  const size_t n = Size(x, 0), k = Size(x, 1);
  ActivationFormat wanted;
  if (format == "f32") {
    wanted = ActivationFormat::kF32;
  } else if (format == "bf16") {
    wanted = ActivationFormat::kBf16;
  } else if (format == "q8") {
    wanted = ActivationFormat::kQ8;
    if (k % 32 != 0) throw std::invalid_argument("columns must be a multiple of 32 for q8");
  } else {
    throw std::invalid_argument("unknown activation format '" + format + "'; choose one of: f32, bf16, q8");
  }
  const AlignedBuffer<std::byte> rows = PrepareRows(kernels, wanted, x.data(), n, k);
  py::array_t<uint8_t> out({n, ActivationRowBytes(wanted, k)});
  if (rows.size() != 0) std::memcpy(out.mutable_data(), rows.data(), rows.size());
  return out;
}

std::pair<Floats, Floats> Attend(const std::string& kv_type, const Floats& q, const Raw& k, const Raw& v,
                                 const std::vector<size_t>& visible, float cap, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(q, "q", 2);
  RequireDimensions(k, "k", 2);
  RequireDimensions(v, "v", 2);
  const size_t n_q = Size(q, 0), d = Size(q, 1), positions = Size(k, 0);
  const KvLayout layout = HeadLayout(kv_type, d);
  RequireSize(Size(k, 1), layout.vector_bytes(), "bytes of a key");
  RequireSize(Size(v, 1), layout.vector_bytes(), "bytes of a value");
  RequireSize(Size(v, 0), positions, "number of values");
  RequireSize(visible.size(), n_q, "length of visible");
  if (positions > kKvBlockPositions) throw std::invalid_argument("at most 64 positions");
  if (!std::all_of(visible.begin(), visible.end(), [&](size_t count) { return count <= positions; })) {
    throw std::invalid_argument("visible must not exceed the number of positions");
  }
  if (!(cap > 0 && cap <= kMaxSoftCap)) throw std::invalid_argument("cap must be above 0 and at most 60");
  // What the run holds beyond the given positions is NaN, also as a scale.
  const AlignedBuffer<std::byte> keys(layout.run_bytes()), values(layout.run_bytes());
  std::memset(keys.data(), 0xff, layout.run_bytes());
  std::memset(values.data(), 0xff, layout.run_bytes());
  for (size_t i = 0; i < positions; ++i) {
    layout.PutKey(BytesOf(k) + i * layout.vector_bytes(), i, keys.data());
    layout.PutValue(BytesOf(v) + i * layout.vector_bytes(), i, values.data());
  }
  const size_t stride = RoundUp(d, kAccMultiple);
  std::vector<float> acc(n_q * stride + kGuardFloats), sum(n_q * kWeightSums + kGuardFloats);
  FillGuard(acc.data() + n_q * stride, kGuardFloats * sizeof(float));
  FillGuard(sum.data() + n_q * kWeightSums, kGuardFloats * sizeof(float));
  kernels.kv[static_cast<size_t>(layout.type)].attend({.q = q.data(),
                                                       .n_q = n_q,
                                                       .k = keys.data(),
                                                       .v = values.data(),
                                                       .d = d,
                                                       .next_k = nullptr,
                                                       .visible = visible.data(),
                                                       .cap = cap,
                                                       .acc = acc.data(),
                                                       .acc_stride = stride,
                                                       .sum = sum.data()});
  CheckGuard(acc.data() + n_q * stride, kGuardFloats * sizeof(float), "its output");
  CheckGuard(sum.data() + n_q * kWeightSums, kGuardFloats * sizeof(float), "its sums");
  Floats acc_out({n_q, d}), sum_out(static_cast<py::ssize_t>(n_q));
  for (size_t i = 0; i < n_q; ++i) {
    std::copy_n(acc.data() + i * stride, d, acc_out.mutable_data() + i * d);
    sum_out.mutable_data()[i] =
        std::accumulate(sum.data() + i * kWeightSums, sum.data() + (i + 1) * kWeightSums, 0.0f);
  }
  return {acc_out, sum_out};
}

py::array_t<uint8_t> KvStore(const std::string& kv_type, const Floats& x, const std::string& isa) {
  RequireDimensions(x, "x", 1);
  const KvLayout layout = HeadLayout(kv_type, Size(x, 0));
  const KernelTable& kernels = SelectTable(isa);
  const size_t bytes = layout.vector_bytes();
  std::vector<uint8_t> out(bytes + kGuardBytes);
  FillGuard(out.data() + bytes, kGuardBytes);
  kernels.kv[static_cast<size_t>(layout.type)].store(x.data(), Size(x, 0), out.data());
  CheckGuard(out.data() + bytes, kGuardBytes, "its output");
  return py::array_t<uint8_t>(static_cast<py::ssize_t>(bytes), out.data());
}

// A vector with guards behind it, filled by `kernel`.
template <class Kernel>
Floats Guarded(size_t n, const float* initial, const Kernel& kernel) {
  std::vector<float> out(n + kGuardFloats);
  if (initial != nullptr) std::copy(initial, initial + n, out.begin());
  FillGuard(out.data() + n, kGuardFloats * sizeof(float));
  kernel(out.data());
  CheckGuard(out.data() + n, kGuardFloats * sizeof(float), "its output");
  return Floats(static_cast<py::ssize_t>(n), out.data());
}

Floats KvLoad(const std::string& kv_type, const Raw& data, size_t n, const std::string& isa) {
  const KvLayout layout = HeadLayout(kv_type, n);
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(data, "data", 1);
  RequireSize(Size(data, 0), layout.vector_bytes(), "bytes of data");
  return Guarded(n, nullptr,
                 [&](float* out) { kernels.kv[static_cast<size_t>(layout.type)].load(data.data(), n, out); });
}

Floats RmsNorm(const Floats& x, const Floats& scale, float eps, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(x, "x", 1);
  RequireSize(static_cast<size_t>(scale.size()), Size(x, 0), "length of scale");
  return Guarded(Size(x, 0), x.data(),
                 [&](float* out) { kernels.rms_norm(out, scale.data(), Size(x, 0), eps, out); });
}

Floats GeluMul(const Floats& gate, const Floats& up, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(gate, "gate", 1);
  RequireSize(static_cast<size_t>(up.size()), Size(gate, 0), "length of up");
  return Guarded(Size(gate, 0), gate.data(),
                 [&](float* out) { kernels.gelu_mul(out, up.data(), Size(gate, 0), out); });
}

Floats Axpy(float weight, const Floats& x, const Floats& acc, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(x, "x", 1);
  RequireSize(static_cast<size_t>(acc.size()), Size(x, 0), "length of acc");
  return Guarded(Size(x, 0), acc.data(),
                 [&](float* out) { kernels.axpy(weight, x.data(), Size(x, 0), out); });
}

Floats Rope(const Floats& x, const Floats& cos, const Floats& sin, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(x, "x", 1);
  const size_t half = Size(x, 0) / 2;
  RequireSize(Size(x, 0), 2 * half, "length of x");
  RequireSize(static_cast<size_t>(cos.size()), half, "length of cos");
  RequireSize(static_cast<size_t>(sin.size()), half, "length of sin");
  return Guarded(2 * half, x.data(), [&](float* out) { kernels.rope(out, cos.data(), sin.data(), half); });
}

Floats Softmax(const Floats& x, const std::string& isa) {
  const KernelTable& kernels = SelectTable(isa);
  RequireDimensions(x, "x", 1);
  return Guarded(Size(x, 0), x.data(), [&](float* out) { kernels.softmax(out, Size(x, 0)); });
}

double LogSumExp(const Floats& x, const std::string& isa) {
  RequireDimensions(x, "x", 1);
  return SelectTable(isa).log_sum_exp(x.data(), Size(x, 0));
}

}  // namespace

void BindKernelHooks(py::module_& m) {
  const auto isa = py::arg("isa") = "";
  m.def("dequantize_rows", &DequantizeRows, py::arg("type"), py::arg("data"), py::arg("columns"), isa);
  py::module_ hooks = m.def_submodule("kernels", "Single kernels on numpy arrays, for tests and benchmarks.");
  hooks.def("select", [](const std::string& name) { return std::string(SelectTable(name).name); }, isa);
  hooks.def("has_many", &HasMany, py::arg("type"), isa);
  hooks.def("matmul", &Matmul, py::arg("type"), py::arg("weights"), py::arg("x"), isa,
            py::arg("many") = false);
  hooks.def("time_matmul", &TimeMatmul, py::arg("type"), py::arg("weights"), py::arg("x"), py::arg("isa"),
            py::arg("threads"), py::arg("repeats"), py::arg("many") = false);
  hooks.def("prepare", &PrepareHook, py::arg("format"), py::arg("x"), isa);
  hooks.def("attend", &Attend, py::arg("kv_type"), py::arg("q"), py::arg("k"), py::arg("v"),
            py::arg("visible"), py::arg("cap"), isa);
  hooks.def("kv_store", &KvStore, py::arg("kv_type"), py::arg("x"), isa);
  hooks.def("kv_load", &KvLoad, py::arg("kv_type"), py::arg("data"), py::arg("n"), isa);
  hooks.def("rms_norm", &RmsNorm, py::arg("x"), py::arg("scale"), py::arg("eps"), isa);
  hooks.def("gelu_mul", &GeluMul, py::arg("gate"), py::arg("up"), isa);
  hooks.def("axpy", &Axpy, py::arg("weight"), py::arg("x"), py::arg("acc"), isa);
  hooks.def("rope", &Rope, py::arg("x"), py::arg("cos"), py::arg("sin"), isa);
  hooks.def("softmax", &Softmax, py::arg("x"), isa);
  hooks.def("log_sum_exp", &LogSumExp, py::arg("x"), isa);
  BindAttentionHooks(hooks);
}

}  // namespace pygrok
