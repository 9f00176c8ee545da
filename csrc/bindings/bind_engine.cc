#include "bindings/bind_engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bind_gguf.h"
#include "bindings/bind_observer.h"
#include "bindings/bind_paging.h"
#include "bindings/signal_poll.h"
#include "io/tensor_type.h"
#include "model/engine.h"
#include "util/cpus.h"

namespace py = pybind11;

namespace pygrok {
namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Floats = py::array_t<float>;

std::span<const int32_t> View(const Ids& ids) {
  if (ids.ndim() != 1) throw std::invalid_argument("ids must have one dimension");
  return {ids.data(), static_cast<size_t>(ids.size())};
}

std::vector<Floats> Feed(Engine& engine, const std::vector<std::shared_ptr<Session>>& sessions,
                         const std::vector<Ids>& ids, const std::string& logits, const py::object& observer) {
  if (sessions.size() != ids.size()) {
    throw std::invalid_argument(std::to_string(sessions.size()) + " sessions but " +
                                std::to_string(ids.size()) + " lists of ids");
  }
  if (logits != "none" && logits != "last" && logits != "all") {
    throw std::invalid_argument("logits is '" + logits + "': choose none, last or all");
  }
  const auto vocab = static_cast<py::ssize_t>(engine.config().vocab);
  std::vector<Floats> results;
  std::vector<Engine::Request> requests;
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (sessions[i] == nullptr) throw std::invalid_argument("a session is None");
    Engine::Request request{.session = sessions[i].get(), .ids = View(ids[i])};
    if (logits == "last") {
      results.emplace_back(vocab);
      request.last_logits = results.back().mutable_data();
    } else if (logits == "all") {
      results.emplace_back(std::vector<py::ssize_t>{ids[i].size(), vocab});
      request.all_logits = results.back().mutable_data();
    }
    requests.push_back(request);
  }
  const ObserverOf held(observer, engine.tied_output());
  py::gil_scoped_release release;
  engine.Feed(requests, SignalPoll(), held.get());
  return results;
}

Floats Score(Engine& engine, const std::shared_ptr<Session>& session, const Ids& ids) {
  if (session == nullptr) throw std::invalid_argument("a session is None");
  Floats result(std::max<py::ssize_t>(0, ids.size() - 1));
  const Engine::Request request{
      .session = session.get(), .ids = View(ids), .log_probabilities = result.mutable_data()};
  py::gil_scoped_release release;
  engine.Feed({request}, SignalPoll());
  return result;
}

void ReplaceTensor(Engine& engine, const std::string& name, const std::string& type_name,
                   const py::array_t<uint8_t, py::array::c_style>& data) {
  const TensorTypeInfo* type = FindTensorType(type_name);
  if (type == nullptr) throw std::invalid_argument("'" + type_name + "' is not a tensor type");
  const std::span bytes(reinterpret_cast<const std::byte*>(data.data()), static_cast<size_t>(data.size()));
  py::gil_scoped_release release;
  engine.ReplaceTensor(name, type->type, bytes, SignalPoll());
}

using Release = py::call_guard<py::gil_scoped_release>;

}  // namespace

void BindEngine(py::module_& m) {
  m.def("available_cpus", &AvailableCpus);

  py::class_<Config>(m, "Config")
      .def_readonly("layers", &Config::layers)
      .def_readonly("embedding", &Config::embedding)
      .def_readonly("vocab", &Config::vocab)
      .def_readonly("context", &Config::context)
      .def_readonly("heads", &Config::heads)
      .def_readonly("kv_heads", &Config::kv_heads)
      .def_readonly("head_size", &Config::head_size)
      .def_readonly("experts", &Config::experts)
      .def_readonly("experts_used", &Config::experts_used)
      .def_readonly("expert_width", &Config::expert_width)
      .def_readonly("embedding_multiplier", &Config::embedding_multiplier)
      .def_readonly("output_multiplier", &Config::output_multiplier)
      .def_readonly("attention_multiplier", &Config::attention_multiplier)
      .def_readonly("attention_soft_cap", &Config::attention_soft_cap)
      .def_readonly("rms_eps", &Config::rms_eps)
      .def_readonly("rope_base", &Config::rope_base);

  py::class_<Session, std::shared_ptr<Session>>(m, "Session")
      .def_property_readonly("position", &Session::position)
      .def_property_readonly("ids",
                             [](const Session& session) {
                               const std::vector<int32_t> ids = session.ids();
                               return py::array_t<int32_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
                             })
      .def_property_readonly("kv_bytes", &Session::kv_bytes)
      .def(
          "rewind", [](Session& s, size_t position) { s.Rewind(position, SignalPoll()); },
          py::arg("position"), Release())
      .def(
          "fork", [](const Session& s) { return s.Fork(SignalPoll()); }, Release())
      .def(
          "save",
          [](const Session& s, const py::object& path_like) {
            const std::string path = FsPath(path_like);
            py::gil_scoped_release release;
            s.Save(path, SignalPoll());
          },
          py::arg("path"))
      .def(
          "restore",
          [](Session& s, const py::object& path_like) {
            const std::string path = FsPath(path_like);
            py::gil_scoped_release release;
            s.Restore(path, SignalPoll());
          },
          py::arg("path"))
      .def("cancel", &Session::Cancel);

  BindObserver(m);

  py::class_<Engine, std::shared_ptr<Engine>> engine_class(m, "Engine");
  BindPaging(engine_class);
  engine_class
      .def(py::init([](const py::object& path_like, int threads, size_t context, const std::string& kv_type,
                       size_t memory_limit, const std::string& isa, const std::string& activations,
                       const std::string& expert_io, int lookahead, double route_slack,
                       const std::vector<std::pair<size_t, size_t>>& pin_hot, size_t piece_bytes) {
             const std::string path = FsPath(path_like);
             const EngineOptions options = {threads,
                                            context,
                                            kv_type,
                                            memory_limit,
                                            isa,
                                            activations,
                                            {expert_io, lookahead, route_slack, pin_hot, piece_bytes}};
             py::gil_scoped_release release;
             return std::make_shared<Engine>(path, options, SignalPoll());
           }),
           py::arg("path"), py::kw_only(), py::arg("threads"), py::arg("context"), py::arg("kv_type"),
           py::arg("memory_limit"), py::arg("isa"), py::arg("activations"), py::arg("expert_io") = "auto",
           py::arg("lookahead") = -1, py::arg("route_slack") = 0.0,
           py::arg("pin_hot") = std::vector<std::pair<size_t, size_t>>(), py::arg("piece_bytes") = 0)
      .def_property_readonly("config", [](const Engine& engine) { return engine.config(); })
      .def_property_readonly("isa", &Engine::isa)
      .def_property_readonly("threads", &Engine::threads)
      .def_property_readonly("kv_type", &Engine::kv_type)
      .def_property_readonly("context", &Engine::context)
      .def_property_readonly("memory_used", &Engine::memory_used)
      .def_property_readonly("kv_block_bytes", &Engine::kv_block_bytes)
      .def("new_session", &Engine::NewSession)
      .def("feed", &Feed, py::arg("sessions"), py::arg("ids"), py::arg("logits"),
           py::arg("observer") = py::none())
      .def("score", &Score, py::arg("session"), py::arg("ids"))
      .def_property_readonly("tied_output", &Engine::tied_output)
      .def("replace_tensor", &ReplaceTensor, py::arg("name"), py::arg("type"), py::arg("data"))
      .def(
          "restore_tensor",
          [](Engine& engine, const std::string& name) { engine.RestoreTensor(name, SignalPoll()); },
          py::arg("name"), Release())
      .def("cancel", &Engine::Cancel)
      .def("close", &Engine::Close, Release());
}

}  // namespace pygrok
