#pragma once

#include <pybind11/pybind11.h>

namespace pygrok {

// time_attention in the submodule `kernels`, for bench/attention.py.
void BindAttentionHooks(pybind11::module_& hooks);

}  // namespace pygrok
