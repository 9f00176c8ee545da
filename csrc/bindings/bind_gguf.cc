#include "bindings/bind_gguf.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "io/gguf.h"
#include "io/tensor_type.h"
#include "util/error.h"

namespace py = pybind11;

namespace pygrok {
namespace {

py::dict TensorTypes() {
  py::dict types;
  for (uint32_t number = 0; number < kTensorTypeLimit; ++number) {
    if (const TensorTypeInfo* info = FindTensorType(number)) {
      types[info->name] = py::make_tuple(number, info->block_size, info->block_bytes);
    }
  }
  return types;
}

py::object DecodeLossily(std::string_view text) {
  PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

// A copy: the elements lie unaligned in the file.
template <typename T>
py::object CopyNumbers(const GgufArray& array) {
  py::array_t<T> copy(static_cast<py::ssize_t>(array.count));
  if (array.bytes > 0) std::memcpy(copy.mutable_data(), array.data, array.bytes);
  return copy;
}

py::object CopyStrings(const Gguf& file, const GgufArray& array) {
  py::list strings(array.count);
  std::span<const std::byte> rest(array.data, array.bytes);
  for (size_t i = 0; i < array.count; ++i) {
    const std::string_view text = NextString(rest);
    if (text.data() == nullptr) {
      throw FormatError(file.Where("its metadata was written over while in use: load it again"));
    }
    strings[i] = py::bytes(text.data(), text.size());
  }
  return strings;
}

py::object FromArray(const Gguf& file, const GgufArray& array) {
  switch (array.type) {
    case GgufValueType::kUint8:
      return CopyNumbers<uint8_t>(array);
    case GgufValueType::kInt8:
      return CopyNumbers<int8_t>(array);
    case GgufValueType::kUint16:
      return CopyNumbers<uint16_t>(array);
    case GgufValueType::kInt16:
      return CopyNumbers<int16_t>(array);
    case GgufValueType::kUint32:
      return CopyNumbers<uint32_t>(array);
    case GgufValueType::kInt32:
      return CopyNumbers<int32_t>(array);
    case GgufValueType::kUint64:
      return CopyNumbers<uint64_t>(array);
    case GgufValueType::kInt64:
      return CopyNumbers<int64_t>(array);
    case GgufValueType::kFloat32:
      return CopyNumbers<float>(array);
    case GgufValueType::kFloat64:
      return CopyNumbers<double>(array);
    case GgufValueType::kBool:
      return CopyNumbers<bool>(array);
    case GgufValueType::kString:
      return CopyStrings(file, array);
    case GgufValueType::kArray:
      break;  // refused by the parser
  }
  return py::none();
}

py::object FromValue(const Gguf& file, const GgufValue& value) {
  return std::visit(
      [&](const auto& held) -> py::object {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, GgufArray>) {
          return FromArray(file, held);
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          return DecodeLossily(held);
        } else {
          return py::cast(held);
        }
      },
      value);
}

py::list Keys(const Gguf& file) {
  py::list keys;
  for (const auto& [key, value] : file.metadata()) keys.append(py::str(key));
  return keys;
}

py::list Paths(const Gguf& file) {
  py::list paths;
  for (const MappedFile& mapped : file.files()) {
    PyObject* path = PyUnicode_DecodeFSDefaultAndSize(mapped.path().data(),
                                                      static_cast<py::ssize_t>(mapped.path().size()));
    if (path == nullptr) throw py::error_already_set();
    paths.append(py::reinterpret_steal<py::object>(path));
  }
  return paths;
}

size_t FileBytes(const Gguf& file) {
  size_t bytes = 0;
  for (const MappedFile& mapped : file.files()) bytes += mapped.size();
  return bytes;
}

// `self` becomes the array's base, so the mapping lives as long as any view of it.
py::array Data(const py::object& self, const std::string& name) {
  const auto& file = self.cast<const Gguf&>();
  const GgufTensor* tensor = file.FindTensor(name);
  if (tensor == nullptr) throw py::key_error("no tensor named " + name);
  EnsureFaultHandler();
  file.RequireReadable();
  py::array_t<uint8_t> view({static_cast<py::ssize_t>(tensor->bytes)}, {py::ssize_t{1}},
                            reinterpret_cast<const uint8_t*>(tensor->data), self);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

const char* TypeName(const GgufTensor& tensor) { return InfoOf(tensor.type).name; }

std::string Repr(const GgufTensor& tensor) {
  return py::str("TensorInfo(name={!r}, type={!r}, shape={}, bytes={}, shard={}, offset={})")
      .format(tensor.name, TypeName(tensor), py::tuple(py::cast(tensor.shape)), tensor.bytes, tensor.shard,
              tensor.offset);
}

}  // namespace

std::string FsPath(py::handle path) {
  PyObject* converted = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &converted) == 0) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(converted);
}

void BindGguf(py::module_& m) {
  m.def("tensor_types", &TensorTypes,
        "Name -> (GGUF number, values per block, bytes per block) of every type the format defines.");

  py::class_<GgufTensor>(m, "TensorInfo", py::is_final(), "A tensor of a GgufFile; shape is slowest first.")
      .def_readonly("name", &GgufTensor::name)
      .def_property_readonly("type", &TypeName)
      .def_property_readonly("shape", [](const GgufTensor& t) { return py::tuple(py::cast(t.shape)); })
      .def_readonly("bytes", &GgufTensor::bytes)
      .def_readonly("shard", &GgufTensor::shard)
      .def_readonly("offset", &GgufTensor::offset)
      .def("__repr__", &Repr);

  py::class_<Gguf>(m, "GgufFile", py::is_final(),
                   "A GGUF file or split set, mapped read-only. Raises FormatError, OSError.")
      .def(py::init([](const py::object& path) {
             const std::string name = FsPath(path);
             const py::gil_scoped_release release;
             return std::make_unique<Gguf>(name);
           }),
           py::arg("path"))
      .def_property_readonly("paths", &Paths)
      .def_property_readonly("version", &Gguf::version)
      .def_property_readonly("file_bytes", &FileBytes, "Of all shards together.")
      .def_property_readonly("tensors", [](const Gguf& file) { return py::cast(file.tensors()); })
      .def("keys", &Keys, "The metadata keys, sorted.")
      .def(
          "get",
          [](const Gguf& file, const std::string& key, py::object fallback) {
            const GgufValue* value = file.FindValue(key);
            if (value == nullptr) return fallback;
            EnsureFaultHandler();
            py::object copy = FromValue(file, *value);
            file.RequireReadable();
            return copy;
          },
          py::arg("key"), py::arg("default") = py::none(),
          "A scalar, a str, a numpy array for numeric arrays, a list of bytes for arrays of strings.")
      .def("data", &Data, py::arg("name"),
           "The tensor's bytes as a read-only uint8 view of the mapping. What cannot be read turns to zeros: "
           "see "
           "check. Raises KeyError, FormatError.")
      .def("check", &Gguf::RequireReadable,
           "Raises FormatError if some of what was read through `data` could not be read.");
}

}  // namespace pygrok
