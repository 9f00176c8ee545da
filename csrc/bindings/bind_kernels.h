#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

void BindKernels(pybind11::module_& m);

}  // namespace pygrok
