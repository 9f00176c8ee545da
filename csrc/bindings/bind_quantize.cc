#include "bindings/bind_quantize.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "quantize/codec.h"
#include "quantize/convert.h"
#include "util/cpus.h"
#include "util/thread_pool.h"

namespace py = pybind11;

namespace pygrok {
namespace {

TensorType TypeNamed(const std::string& name) {
  const TensorTypeInfo* info = FindTensorType(name);
  if (info == nullptr) throw std::invalid_argument("unknown tensor type '" + name + "'");
  return CodecOf(info->type).type;
}

// Row-major without gaps; alignment does not matter here, mapped pickles have none.
void RequireContiguous(const py::array& array, const char* name) {
  if ((array.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument(std::string(name) + " must be C-contiguous");
  }
}

// 0 = all that this process may use.
int ThreadCount(int threads) {
  if (threads < 0 || threads > 1024) throw std::invalid_argument("threads must be 0 (all available) to 1024");
  return threads == 0 ? AvailableCpus() : threads;
}

py::array_t<uint8_t> QuantizeRows(const std::string& type,
                                  const py::array_t<float, py::array::c_style | py::array::forcecast>& rows,
                                  int threads) {
  if (rows.ndim() != 2) throw std::invalid_argument("rows must have 2 dimensions");
  const int thread_count = ThreadCount(threads);
  const TensorType tensor_type = TypeNamed(type);
  const size_t count = static_cast<size_t>(rows.shape(0));
  const size_t k = static_cast<size_t>(rows.shape(1));
  const size_t row_bytes = RowBytes(tensor_type, k);
  py::array_t<uint8_t> out({count, row_bytes});
  std::byte* to = reinterpret_cast<std::byte*>(out.mutable_data());
  const SourceMatrix source = {.data = reinterpret_cast<const std::byte*>(rows.data()),
                               .type = SourceType::kF32,
                               .rows = count,
                               .columns = k,
                               .scales = nullptr,
                               .groups = 0,
                               .transpose = false};
  {
    py::gil_scoped_release release;
    ThreadPool pool(thread_count);
    ConvertRows(pool, source, tensor_type, 0, count, to);
  }
  return out;
}

SourceType SourceTypeOf(const py::array& weight) {
  const py::dtype dtype = weight.dtype();
  if (dtype.kind() == 'i' && dtype.itemsize() == 1) return SourceType::kInt8;
  if (dtype.kind() == 'f' && dtype.itemsize() == 4) return SourceType::kF32;
  if (dtype.kind() == 'u' && dtype.itemsize() == 2) return SourceType::kBf16;
  throw std::invalid_argument("weight must be int8, float32 or uint16 (the bits of bfloat16)");
}

class Converter {
 public:
  explicit Converter(int threads) : pool_(ThreadCount(threads)) {}

  int threads() const { return pool_.size(); }

  void Convert(const py::array& weight, const std::optional<py::array>& scales, bool transpose,
               const std::string& type, size_t first_row, py::array& out) {
    if (weight.ndim() != 2) throw std::invalid_argument("weight must have 2 dimensions");
    RequireContiguous(weight, "weight");
    SourceMatrix source = {.data = static_cast<const std::byte*>(weight.data()),
                           .type = SourceTypeOf(weight),
                           .rows = static_cast<size_t>(weight.shape(0)),
                           .columns = static_cast<size_t>(weight.shape(1)),
                           .scales = nullptr,
                           .groups = 0,
                           .transpose = transpose};
    if (scales) {
      if (scales->ndim() != 2 || scales->dtype().kind() != 'u' || scales->itemsize() != 2 ||
          scales->shape(1) != weight.shape(1)) {
        throw std::invalid_argument(
            "scales must be uint16 (the bits of bfloat16) [groups, columns of weight]");
      }
      RequireContiguous(*scales, "scales");
      source.scales = static_cast<const std::byte*>(scales->data());
      source.groups = static_cast<size_t>(scales->shape(0));
    }

    const TensorType tensor_type = TypeNamed(type);
    if (out.ndim() != 2 || out.dtype().kind() != 'u' || out.itemsize() != 1 ||
        static_cast<size_t>(out.shape(1)) != RowBytes(tensor_type, source.out_columns())) {
      throw std::invalid_argument("out must be uint8 [rows, bytes of a row]");
    }
    RequireContiguous(out, "out");
    std::byte* to = static_cast<std::byte*>(out.mutable_data());  // throws for a read-only array
    const size_t rows = static_cast<size_t>(out.shape(0));

    py::gil_scoped_release release;
    ConvertRows(pool_, source, tensor_type, first_row, rows, to);
  }

 private:
  ThreadPool pool_;
};

}  // namespace

void BindQuantize(py::module_& m) {
  m.def("quantize_rows", &QuantizeRows, py::arg("type"), py::arg("rows"), py::arg("threads") = 1);
  py::class_<Converter>(m, "Converter", py::is_final())
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &Converter::threads)
      .def("convert", &Converter::Convert, py::arg("weight"), py::arg("scales"), py::arg("transpose"),
           py::arg("type"), py::arg("first_row"), py::arg("out"));
}

}  // namespace pygrok
