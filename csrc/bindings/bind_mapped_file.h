#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

// _core.MappedFile.
void BindMappedFile(pybind11::module_& m);

}  // namespace pygrok
