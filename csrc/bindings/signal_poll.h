// Signals during calls that compute.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace pygrok {

// Lets Ctrl-C through while the GIL is released: asks Python for pending signals, but not so often that
// waiting for the GIL of a busy program would slow a small model down.
class SignalPoll {
 public:
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return;
    next_ = now + std::chrono::milliseconds(50);
    pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }

 private:
  std::chrono::steady_clock::time_point next_ =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
};

}  // namespace pygrok
