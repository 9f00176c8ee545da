#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

// quantize_rows() and Converter.
void BindQuantize(pybind11::module_& m);

}  // namespace pygrok
