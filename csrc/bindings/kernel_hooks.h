#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

// dequantize_rows, and the submodule `kernels`: single kernels on numpy arrays, for tests and
// bench/kernels.py.
void BindKernelHooks(pybind11::module_& m);

}  // namespace pygrok
