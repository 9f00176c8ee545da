#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace pygrok {

// The bytes of a str, bytes or os.PathLike as the file system takes them. Throws TypeError, ValueError.
std::string FsPath(pybind11::handle path);

// tensor_types(), TensorInfo and GgufFile.
void BindGguf(pybind11::module_& m);

}  // namespace pygrok
