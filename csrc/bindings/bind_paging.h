// How an engine's experts come into memory, and records of their routing.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "model/engine.h"

namespace pygrok {

void BindPaging(pybind11::class_<Engine, std::shared_ptr<Engine>>& engine);

}  // namespace pygrok
