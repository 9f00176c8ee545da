// The store of expert pieces on its own, for tests.
#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

void BindExpertStore(pybind11::module_& m);

}  // namespace pygrok
