#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

// Calibration: parts of layers on arrays, second-order statistics and error-compensated rounding.
void BindCalibrate(pybind11::module_& m);

}  // namespace pygrok
