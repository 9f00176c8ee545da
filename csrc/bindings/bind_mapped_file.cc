#include "bindings/bind_mapped_file.h"

#include <pybind11/numpy.h>

#include <memory>
#include <string>

#include "bindings/bind_gguf.h"
#include "io/mapped_file.h"

namespace py = pybind11;

namespace pygrok {
namespace {

// `self` becomes the array's base, so the mapping lives as long as any view of it.
py::array Data(const py::object& self) {
  const auto& file = self.cast<const MappedFile&>();
  EnsureFaultHandler();
  file.RequireReadable();
  py::array_t<uint8_t> view({static_cast<py::ssize_t>(file.size())}, {py::ssize_t{1}},
                            reinterpret_cast<const uint8_t*>(file.data()), self);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

}  // namespace

void BindMappedFile(py::module_& m) {
  py::class_<MappedFile>(m, "MappedFile", py::is_final(),
                         "A file mapped read-only. Raises FormatError (empty, not a regular file), OSError.")
      .def(py::init([](const py::object& path) {
             const std::string name = FsPath(path);
             const py::gil_scoped_release release;
             return std::make_unique<MappedFile>(name);
           }),
           py::arg("path"))
      .def("__len__", &MappedFile::size)
      .def_property_readonly("data", &Data,
                             "uint8 view of all bytes. What cannot be read turns to zeros: see check.")
      .def(
          "prefetch",
          [](const MappedFile& file, size_t offset, size_t length) {
            file.Advise(offset, length, Access::kWillNeed);
          },
          py::arg("offset"), py::arg("length"), "Starts reading a range.")
      .def(
          "drop",
          [](const MappedFile& file, size_t offset, size_t length) {
            file.Advise(offset, length, Access::kDontNeed);
          },
          py::arg("offset"), py::arg("length"), "Gives a range's pages back; those it shares stay.")
      .def("check", &MappedFile::RequireReadable,
           "Raises FormatError if some of what was read through `data` could not be read.");
}

}  // namespace pygrok
