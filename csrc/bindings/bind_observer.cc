#include "bindings/bind_observer.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "model/square_sums.h"

namespace py = pybind11;

namespace pygrok {
namespace {

// Hands every input out as callback(names, expert or None, rows [n, k]).
class CallbackObserver : public InputObserver {
 public:
  CallbackObserver(py::object callback, bool tied) : callback_(std::move(callback)), tied_(tied) {}

  void Observe(const Observation& o, ThreadPool&) override {
    const py::gil_scoped_acquire gil;
    py::array_t<float> rows({static_cast<py::ssize_t>(o.n), static_cast<py::ssize_t>(o.k)});
    for (size_t i = 0; i < o.n; ++i) std::copy_n(o.Row(i), o.k, rows.mutable_data() + i * o.k);
    callback_(py::tuple(py::cast(NamesOf(o.input, o.layer, tied_))),
              o.routes == nullptr ? py::object(py::none()) : py::object(py::int_(o.expert)), rows);
  }

 private:
  py::object callback_;
  const bool tied_;
};

// names -> (sums [matrices, columns], counts [matrices]), without the GIL while a forward may hold the lock.
py::list Entries(const SquareSums& sums) {
  std::vector<SquareSums::Entry> entries;
  {
    const py::gil_scoped_release release;
    entries = sums.entries();
  }
  py::list result;
  for (const SquareSums::Entry& entry : entries) {
    const auto matrices = static_cast<py::ssize_t>(entry.matrices);
    result.append(py::make_tuple(
        py::tuple(py::cast(entry.names)),
        py::array_t<double>({matrices, static_cast<py::ssize_t>(entry.columns)}, entry.squares.data()),
        py::array_t<int64_t>(matrices, entry.counts.data())));
  }
  return result;
}

}  // namespace

ObserverOf::ObserverOf(const py::object& observer, bool tied) : held_(observer) {
  if (observer.is_none()) return;
  if (py::isinstance<SquareSums>(observer)) {
    observer_ = observer.cast<SquareSums*>();
  } else if (PyCallable_Check(observer.ptr()) != 0) {
    made_ = std::make_unique<CallbackObserver>(observer, tied);
    observer_ = made_.get();
  } else {
    throw py::type_error("observer must be an InputSums, or a callable that takes (names, expert, rows)");
  }
}

void BindObserver(py::module_& m) {
  py::class_<SquareSums>(m, "InputSums", py::is_final(),
                         "Sums of squares of what enters each matrix, for one model.")
      .def(py::init<const Config&, bool>(), py::arg("config"), py::arg("tied_output"))
      .def("entries", &Entries,
           "(names, sums float64 [matrices, columns], rows seen int64 [matrices]) of every input, copies.");
}

}  // namespace pygrok
