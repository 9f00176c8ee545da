#include "bindings/bind_paging.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/signal_poll.h"

namespace py = pybind11;

namespace pygrok {
namespace {

py::dict Paging(const Engine& engine) {
  PagingReport report;
  {
    const py::gil_scoped_release release;
    report = engine.Paging();
  }
  const StoreCounters& store = report.store;
  py::dict d;
  d["mode"] = report.mode;
  d["chosen_by"] = report.chosen_by;
  d["budget_bytes"] = report.budget_bytes;
  d["resident_bytes"] = report.resident_bytes;
  d["pool_bytes"] = report.pool_bytes;
  d["piece_bytes"] = report.piece_bytes;
  d["expert_bytes"] = report.expert_bytes;
  d["layers"] = engine.config().layers;
  d["experts"] = engine.config().experts;
  d["lookahead"] = report.lookahead;
  d["tokens"] = report.tokens;
  d["bytes_needed"] = store.bytes_needed;
  d["bytes_hit"] = store.bytes_hit;
  d["bytes_read"] = store.bytes_read;
  d["bytes_predicted_read"] = store.bytes_predicted_read;
  d["bytes_wasted"] = store.bytes_wasted;
  d["predictions"] = report.predictions;
  d["predictions_right"] = report.predictions_right;
  d["routes"] = report.routes;
  d["routes_changed"] = report.routes_changed;
  d["wait_seconds"] = store.wait_seconds;
  d["read_seconds"] = store.read_seconds;
  return d;
}

py::array_t<float> ResidentExperts(const Engine& engine) {
  std::vector<float> shares;
  {
    const py::gil_scoped_release release;
    shares = engine.ResidentExperts();
  }
  const auto layers = static_cast<py::ssize_t>(engine.config().layers);
  return py::array_t<float>({layers, static_cast<py::ssize_t>(shares.size()) / layers}, shares.data());
}

py::tuple TakeTrace(Engine& engine) {
  RouteRecord record;
  {
    const py::gil_scoped_release release;
    record = engine.TakeTrace(SignalPoll());
  }
  const auto n = static_cast<py::ssize_t>(record.positions.size());
  const auto layers = static_cast<py::ssize_t>(engine.config().layers);
  const auto used = static_cast<py::ssize_t>(engine.config().experts_used);
  const auto experts = static_cast<py::ssize_t>(engine.config().experts);
  const bool probabilities = record.with_probabilities;
  return py::make_tuple(
      py::array_t<int32_t>(n, record.sessions.data()), py::array_t<int32_t>(n, record.positions.data()),
      py::array_t<uint8_t>({n, layers, used}, record.experts.data()),
      probabilities ? py::object(py::array_t<float>({n, layers, experts}, record.probabilities.data()))
                    : py::object(py::none()));
}

}  // namespace

void BindPaging(py::class_<Engine, std::shared_ptr<Engine>>& engine) {
  using Release = py::call_guard<py::gil_scoped_release>;
  engine.def("paging", &Paging)
      .def("reset_paging", &Engine::ResetPaging, Release())
      .def("resident_experts", &ResidentExperts)
      .def(
          "drop_experts", [](Engine& e) { e.DropExperts(SignalPoll()); }, Release())
      .def(
          "start_trace", [](Engine& e, bool probabilities) { e.StartTrace(probabilities, SignalPoll()); },
          py::arg("probabilities") = false, Release())
      .def("take_trace", &TakeTrace)
      .def("stop_trace", [](Engine& e) { e.StopTrace(SignalPoll()); }, Release());
}

}  // namespace pygrok
