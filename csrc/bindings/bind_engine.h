#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

void BindEngine(pybind11::module_& m);

}  // namespace pygrok
