// Observers of a forward pass as Python hands them over.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "model/observer.h"

namespace pygrok {

// None, an InputSums or a callable, as an observer. Made and destroyed under the GIL.
class ObserverOf {
 public:
  // Throws py::type_error for anything else. tied: the embedding is the output matrix.
  ObserverOf(const pybind11::object& observer, bool tied);
  InputObserver* get() const { return observer_; }

 private:
  pybind11::object held_;
  std::unique_ptr<InputObserver> made_;
  InputObserver* observer_ = nullptr;
};

// _core.InputSums; Config is bound before.
void BindObserver(pybind11::module_& m);

}  // namespace pygrok
