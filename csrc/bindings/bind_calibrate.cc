#include "bindings/bind_calibrate.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "model/layer_runner.h"
#include "quantize/compensate.h"
#include "quantize/gram.h"

namespace py = pybind11;

namespace pygrok {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
// Type and rows as a GGUF file has them, uint8 [rows, bytes of a row]. Held while C++ reads it.
using Stored = std::pair<std::string, Bytes>;

size_t Size(py::ssize_t n) { return static_cast<size_t>(n); }

TensorType TypeNamed(const std::string& name) {
  const TensorTypeInfo* info = FindTensorType(name);
  if (info == nullptr) throw std::invalid_argument("unknown tensor type '" + name + "'");
  return info->type;
}

void Require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

class Calibration {
 public:
  Calibration(const Config& config, int threads, const std::string& isa) : runner_(config, threads, isa) {}

  int threads() { return runner_.pool().size(); }

  Floats Multiply(const Stored& stored, const Floats& x) {
    const Matrix m = View(stored, "matrix");
    RequireInput(x, m.columns);
    Floats out({Size(x.shape(0)), m.rows});
    const Work work(*this);
    runner_.Multiply(m, x.data(), Size(x.shape(0)), out.mutable_data());
    return out;
  }

  Floats Gate(const Stored& gate_rows, const Stored& up_rows, const Floats& x) {
    const Matrix gate = View(gate_rows, "gate");
    const Matrix up = View(up_rows, "up");
    Require(gate.rows == up.rows && gate.columns == up.columns, "gate and up must have the same shape");
    RequireInput(x, gate.columns);
    Floats out({Size(x.shape(0)), gate.rows});
    const Work work(*this);
    runner_.Gate(gate, up, x.data(), Size(x.shape(0)), out.mutable_data());
    return out;
  }

  Floats Attend(const Stored& q_rows, const Stored& k_rows, const Stored& v_rows, const Floats& x,
                const std::vector<size_t>& lengths) {
    const Config& config = runner_.config();
    const Matrix q = View(q_rows, "q");
    const Matrix k = View(k_rows, "k");
    const Matrix v = View(v_rows, "v");
    Require(q.rows == config.q_width() && k.rows == config.kv_width() && v.rows == config.kv_width(),
            "q, k and v must have heads x head_size and twice kv_heads x head_size rows");
    Require(k.columns == q.columns && v.columns == q.columns, "q, k and v must have the same columns");
    RequireInput(x, q.columns);
    size_t left = Size(x.shape(0));
    for (const size_t length : lengths) {
      Require(length > 0 && length <= left, "lengths must be above 0 and add up to the rows of x");
      left -= length;
    }
    Require(left == 0, "lengths must be above 0 and add up to the rows of x");
    Floats out({Size(x.shape(0)), q.rows});
    const Work work(*this);
    runner_.Attend(q, k, v, x.data(), lengths, out.mutable_data());
    return out;
  }

  Floats Norm(const Floats& x, const Floats& scale) {
    Require(scale.ndim() == 1, "scale must have one dimension");
    RequireInput(x, Size(scale.shape(0)));
    Floats out({x.shape(0), x.shape(1)});
    const Work work(*this);
    runner_.Norm(x.data(), scale.data(), Size(x.shape(0)), Size(x.shape(1)), out.mutable_data());
    return out;
  }

  void AddGram(const Floats& x, const Floats& y, const std::optional<Floats>& weights, Doubles out) {
    Require(x.ndim() == 2 && y.ndim() == 2 && x.shape(0) == y.shape(0),
            "x and y must be float32 [n, k] with the same n");
    Require(!weights || (weights->ndim() == 1 && weights->shape(0) == x.shape(0)),
            "weights must be float32 [n]");
    Require(out.ndim() == 2 && out.shape(0) == x.shape(1) && out.shape(1) == y.shape(1),
            "out must be float64 [columns of x, columns of y]");
    const GramArgs args = {.x = x.data(),
                           .stride_x = Size(x.shape(1)),
                           .k_x = Size(x.shape(1)),
                           .y = y.data(),
                           .stride_y = Size(y.shape(1)),
                           .k_y = Size(y.shape(1)),
                           .weights = weights ? weights->data() : nullptr,
                           .n = Size(x.shape(0)),
                           .out = out.mutable_data()};  // throws for a read-only array
    const Work work(*this);
    pygrok::AddGram(runner_.pool(), args);
  }

  void Compensate(const std::string& type, const Floats& x, const Floats& factor, Bytes out) {
    const Codec& codec = CodecOf(TypeNamed(type));
    Require(x.ndim() == 2 && factor.ndim() == 3 && factor.shape(1) == factor.shape(2) &&
                factor.shape(0) * factor.shape(1) == x.shape(1),
            "x must be float32 [rows, columns] and factor [columns / span, span, span]");
    const CompensateMatrix matrix = {.x = x.data(),
                                     .rows = Size(x.shape(0)),
                                     .columns = Size(x.shape(1)),
                                     .factor = factor.data(),
                                     .span = Size(factor.shape(1))};
    const size_t block = InfoOf(codec.type).block_size;
    Require(matrix.columns % block == 0, "columns must divide into blocks of " + std::to_string(block));
    Require(out.ndim() == 2 && out.shape(0) == x.shape(0) &&
                Size(out.shape(1)) == RowBytes(codec.type, matrix.columns),
            "out must be uint8 [rows, bytes of a row]");
    auto* const to = reinterpret_cast<std::byte*>(out.mutable_data());
    const Work work(*this);
    CompensateRows(runner_.pool(), matrix, codec, to);
  }

 private:
  // Without the GIL, and one call at a time.
  struct Work {
    explicit Work(Calibration& owner) : lock(owner.mutex_) {}
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock;
  };

  Matrix View(const Stored& stored, const std::string& name) const {
    const auto& [type_name, rows] = stored;
    const TensorTypeInfo& info = InfoOf(TypeNamed(type_name));
    Require(rows.ndim() == 2 && rows.shape(1) > 0 && Size(rows.shape(1)) % info.block_bytes == 0,
            name + " must be uint8 [rows, bytes of a row] of whole " + info.name + " blocks");
    runner_.RequireRunnable(info.type);
    const size_t row_bytes = Size(rows.shape(1));
    return {.data = reinterpret_cast<const std::byte*>(rows.data()),
            .type = info.type,
            .rows = Size(rows.shape(0)),
            .columns = row_bytes / info.block_bytes * info.block_size,
            .row_bytes = row_bytes};
  }

  static void RequireInput(const Floats& x, size_t columns) {
    Require(x.ndim() == 2 && Size(x.shape(1)) == columns,
            "x must be float32 [n, " + std::to_string(columns) + "]");
  }

  LayerRunner runner_;
  std::mutex mutex_;
};

}  // namespace

void BindCalibrate(py::module_& m) {
  py::class_<Calibration>(m, "Calibration", py::is_final())
      .def(py::init([](size_t heads, size_t kv_heads, size_t head_size, float attention_multiplier,
                       float attention_soft_cap, float rms_eps, float rope_base, int threads,
                       const std::string& isa) {
             Require(
                 heads > 0 && kv_heads > 0 && heads % kv_heads == 0 && head_size > 0 && head_size % 2 == 0,
                 "heads must be a multiple of kv_heads, and head_size even");
             Require(attention_soft_cap > 0 && attention_soft_cap <= kMaxSoftCap,
                     "attention_soft_cap must be above 0 and at most " + std::to_string(kMaxSoftCap));
             Require(threads >= 0 && threads <= 1024, "threads must be 0 (all available) to 1024");
             Config config = {};
             config.heads = heads;
             config.kv_heads = kv_heads;
             config.head_size = head_size;
             config.attention_multiplier = attention_multiplier;
             config.attention_soft_cap = attention_soft_cap;
             config.rms_eps = rms_eps;
             config.rope_base = rope_base;
             return std::make_unique<Calibration>(config, threads, isa);
           }),
           py::kw_only(), py::arg("heads"), py::arg("kv_heads"), py::arg("head_size"),
           py::arg("attention_multiplier"), py::arg("attention_soft_cap"), py::arg("rms_eps"),
           py::arg("rope_base"), py::arg("threads") = 0, py::arg("isa") = "")
      .def_property_readonly("threads", &Calibration::threads)
      .def("multiply", &Calibration::Multiply, py::arg("matrix"), py::arg("x"))
      .def("gate", &Calibration::Gate, py::arg("gate"), py::arg("up"), py::arg("x"))
      .def("attend", &Calibration::Attend, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("x"),
           py::arg("lengths"))
      .def("norm", &Calibration::Norm, py::arg("x"), py::arg("scale"))
      .def("add_gram", &Calibration::AddGram, py::arg("x"), py::arg("y"), py::arg("weights"),
           py::arg("out").noconvert())
      .def("compensate", &Calibration::Compensate, py::arg("type"), py::arg("x"), py::arg("factor"),
           py::arg("out").noconvert());
}

}  // namespace pygrok
