#include "bindings/bind_quantize.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

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
  return info->type;
}

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

// nullptr without one.
const float* ImportanceOf(const std::optional<FloatArray>& importance, size_t columns) {
  if (!importance) return nullptr;
  if (importance->ndim() != 1 || static_cast<size_t>(importance->shape(0)) != columns) {
    throw std::invalid_argument("importance must be float32 [" + std::to_string(columns) +
                                "], one value for each column of the result");
  }
  return importance->data();
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

py::array_t<uint8_t> QuantizeRows(const std::string& type, const FloatArray& rows, int threads,
                                  const std::optional<FloatArray>& importance, const std::string& isa) {
  if (rows.ndim() != 2) throw std::invalid_argument("rows must have 2 dimensions");
  const int thread_count = ThreadCount(threads);
  const Codec& codec = CodecOf(TypeNamed(type), CodecIsaNamed(isa));
  const size_t count = static_cast<size_t>(rows.shape(0));
  const size_t k = static_cast<size_t>(rows.shape(1));
  const float* const columns = ImportanceOf(importance, k);
  py::array_t<uint8_t> out({count, RowBytes(codec.type, k)});
  std::byte* to = reinterpret_cast<std::byte*>(out.mutable_data());
  const SourceMatrix source = {.data = reinterpret_cast<const std::byte*>(rows.data()),
                               .type = SourceType::kF32,
                               .blocks = TensorType::kF32,
                               .rows = count,
                               .columns = k,
                               .scales = nullptr,
                               .groups = 0,
                               .transpose = false};
  {
    py::gil_scoped_release release;
    ThreadPool pool(thread_count);
    ConvertRows(pool, source, codec, columns, 0, count, to);
  }
  return out;
}

// One block of up to kGroupRows rows, for tests: what the whole-matrix rounding is made of.
py::tuple CompensateOneBlock(const std::string& type, const FloatArray& x, const FloatArray& factor,
                             const std::string& isa) {
  const Codec& codec = CodecOf(TypeNamed(type), CodecIsaNamed(isa));
  const TensorTypeInfo& info = InfoOf(codec.type);
  const py::ssize_t block = static_cast<py::ssize_t>(info.block_size);
  if (codec.compensate == nullptr) throw std::invalid_argument("type '" + type + "' has no blocks");
  if (x.ndim() != 2 || x.shape(0) > static_cast<py::ssize_t>(kGroupRows) || x.shape(1) != block ||
      factor.ndim() != 2 || factor.shape(0) != block || factor.shape(1) != block) {
    throw std::invalid_argument("x must be [rows <= 16, block], factor [block, block]");
  }
  const size_t rows = static_cast<size_t>(x.shape(0));
  std::vector<float> values(info.block_size * kGroupRows);
  std::vector<float> errors(info.block_size * kGroupRows);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < info.block_size; ++i) {
      values[i * kGroupRows + r] = x.data()[r * info.block_size + i];
    }
  }
  py::array_t<uint8_t> out({rows, info.block_bytes});
  py::array_t<float> error({rows, info.block_size});
  codec.compensate({.x = values.data(),
                    .factor = factor.data(),
                    .factor_stride = info.block_size,
                    .rows = rows,
                    .out = reinterpret_cast<std::byte*>(out.mutable_data()),
                    .stride = info.block_bytes,
                    .error = errors.data()});
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < info.block_size; ++i) {
      error.mutable_data()[r * info.block_size + i] = errors[i * kGroupRows + r];
    }
  }
  return py::make_tuple(out, error);
}

SourceType SourceTypeOf(const py::array& weight) {
  const py::dtype dtype = weight.dtype();
  if (dtype.kind() == 'i' && dtype.itemsize() == 1) return SourceType::kInt8;
  if (dtype.kind() == 'f' && dtype.itemsize() == 4) return SourceType::kF32;
  if (dtype.kind() == 'f' && dtype.itemsize() == 2) return SourceType::kF16;
  if (dtype.kind() == 'u' && dtype.itemsize() == 2) return SourceType::kBf16;
  throw std::invalid_argument("weight must be int8, float32, float16 or uint16 (the bits of bfloat16)");
}

// [rows, bytes of a row] of a GGUF file.
SourceMatrix BlocksOf(const py::array& weight, const std::string& type) {
  const TensorTypeInfo& info = InfoOf(TypeNamed(type));
  const size_t row_bytes = static_cast<size_t>(weight.shape(1));
  if (weight.dtype().kind() != 'u' || weight.itemsize() != 1 || row_bytes % info.block_bytes != 0) {
    throw std::invalid_argument("weight must be uint8 [rows, bytes of a row] of whole " +
                                std::string(info.name) + " blocks");
  }
  return {.data = static_cast<const std::byte*>(weight.data()),
          .type = SourceType::kBlocks,
          .blocks = info.type,
          .rows = static_cast<size_t>(weight.shape(0)),
          .columns = row_bytes / info.block_bytes * info.block_size,
          .scales = nullptr,
          .groups = 0,
          .transpose = false};
}

SourceMatrix ValuesOf(const py::array& weight) {
  return {.data = static_cast<const std::byte*>(weight.data()),
          .type = SourceTypeOf(weight),
          .blocks = TensorType::kF32,
          .rows = static_cast<size_t>(weight.shape(0)),
          .columns = static_cast<size_t>(weight.shape(1)),
          .scales = nullptr,
          .groups = 0,
          .transpose = false};
}

class Converter {
 public:
  explicit Converter(int threads) : pool_(ThreadCount(threads)) {}

  int threads() const { return pool_.size(); }

  void Convert(const py::array& weight, const std::optional<py::array>& scales, bool transpose,
               const std::string& type, size_t first_row, py::array& out,
               const std::optional<FloatArray>& importance, const std::optional<std::string>& source_type) {
    if (weight.ndim() != 2) throw std::invalid_argument("weight must have 2 dimensions");
    RequireContiguous(weight, "weight");
    SourceMatrix source = source_type ? BlocksOf(weight, *source_type) : ValuesOf(weight);
    source.transpose = transpose;
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

    const Codec& codec = CodecOf(TypeNamed(type));
    if (out.ndim() != 2 || out.dtype().kind() != 'u' || out.itemsize() != 1 ||
        static_cast<size_t>(out.shape(1)) != RowBytes(codec.type, source.out_columns())) {
      throw std::invalid_argument("out must be uint8 [rows, bytes of a row]");
    }
    RequireContiguous(out, "out");
    std::byte* to = static_cast<std::byte*>(out.mutable_data());  // throws for a read-only array
    const size_t rows = static_cast<size_t>(out.shape(0));
    const float* const columns = ImportanceOf(importance, source.out_columns());

    py::gil_scoped_release release;
    ConvertRows(pool_, source, codec, columns, first_row, rows, to);
  }

 private:
  ThreadPool pool_;
};

}  // namespace

void BindQuantize(py::module_& m) {
  m.def("quantize_rows", &QuantizeRows, py::arg("type"), py::arg("rows"), py::arg("threads") = 1,
        py::arg("importance") = py::none(), py::arg("isa") = "");
  m.def("compensate_block", &CompensateOneBlock, py::arg("type"), py::arg("x"), py::arg("factor"),
        py::arg("isa") = "");
  py::class_<Converter>(m, "Converter", py::is_final())
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &Converter::threads)
      .def("convert", &Converter::Convert, py::arg("weight"), py::arg("scales"), py::arg("transpose"),
           py::arg("type"), py::arg("first_row"), py::arg("out"), py::arg("importance") = py::none(),
           py::arg("source_type") = py::none());
}

}  // namespace pygrok
