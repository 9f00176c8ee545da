#include "bindings/bind_expert_store.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "bindings/bind_gguf.h"
#include "io/expert_store.h"

namespace py = pybind11;

namespace pygrok {
namespace {

// Pieces of `unit` bytes of one file, every group as many; a byte is a row.
class StoreProbe {
 public:
  StoreProbe(const std::string& path, const std::string& mode, size_t layers, size_t experts, size_t pieces,
             size_t unit, size_t offset, size_t capacity)
      : pieces_(pieces), unit_(unit) {
    if (mode != "direct" && mode != "buffered" && mode != "mapped") {
      throw std::invalid_argument("mode '" + mode + "' is unknown: choose direct, buffered or mapped");
    }
    files_.emplace_back(path);
    StoreLayout layout = {layers, experts, {}, {0}};
    for (size_t group = 0; group < layout.groups(); ++group) {
      for (size_t i = 0; i < pieces; ++i) {
        layout.pieces.push_back({{0, offset + (group * pieces + i) * unit, unit}, unit});
      }
      layout.group_first.push_back(layout.pieces.size());
    }
    const ReadMode read = mode == "direct"     ? ReadMode::kDirect
                          : mode == "buffered" ? ReadMode::kBuffered
                                               : ReadMode::kMapped;
    store_ = std::make_unique<ExpertStore>(layout, std::make_unique<PieceReader>(files_, read), capacity,
                                           layout.pieces.size() * ExpertStore::SlotBytes(layout));
  }

  // The bytes of the layer's experts, planned in the order given, taken by threads in `order` (indices into
  // the plan).
  py::bytes Use(size_t layer, const std::vector<size_t>& experts, const std::vector<size_t>& order,
                size_t threads) {
    std::vector<size_t> plan;
    std::vector<float> shares(store_->layout().experts);
    for (const size_t expert : experts) {
      shares.at(expert) = 1;
      const size_t first = store_->layout().group_first.at(layer * shares.size() + expert);
      for (size_t i = 0; i < pieces_; ++i) plan.push_back(first + i);
    }
    for (const size_t index : order) (void)plan.at(index);
    std::string bytes(plan.size() * unit_, '\0');
    std::exception_ptr error;
    {
      const py::gil_scoped_release release;
      store_->Plan(layer, plan, shares, 1);
      std::atomic<size_t> next{0};
      std::mutex mutex;
      const auto work = [&] {
        try {
          for (size_t i = next++; i < order.size(); i = next++) {
            const size_t piece = plan[order[i]];
            std::memcpy(bytes.data() + order[i] * unit_, store_->Acquire(piece, false), unit_);
            store_->Finish(piece, unit_);
          }
        } catch (...) {
          const std::lock_guard lock(mutex);
          error = std::current_exception();
        }
      };
      std::vector<std::thread> workers;
      for (size_t i = 1; i < threads; ++i) workers.emplace_back(work);
      work();
      for (std::thread& worker : workers) worker.join();
      store_->Release();
    }
    if (error) std::rethrow_exception(error);
    return bytes;
  }

  ExpertStore& store() { return *store_; }

 private:
  const size_t pieces_;
  const size_t unit_;
  std::vector<MappedFile> files_;
  std::unique_ptr<ExpertStore> store_;
};

}  // namespace

void BindExpertStore(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  py::class_<StoreProbe>(m, "StoreProbe", "For tests: an ExpertStore over equal pieces of one file.")
      .def(py::init([](const py::object& path, const std::string& mode, size_t layers, size_t experts,
                       size_t pieces, size_t unit, size_t offset, size_t capacity) {
             return std::make_unique<StoreProbe>(FsPath(path), mode, layers, experts, pieces, unit, offset,
                                                 capacity);
           }),
           py::arg("path"), py::kw_only(), py::arg("mode"), py::arg("layers"), py::arg("experts"),
           py::arg("pieces"), py::arg("unit"), py::arg("offset"), py::arg("capacity"))
      .def("use", &StoreProbe::Use, py::arg("layer"), py::arg("experts"), py::arg("order"),
           py::arg("threads"))
      .def(
          "predict",
          [](StoreProbe& p, size_t layer, const std::vector<size_t>& experts) {
            p.store().Predict(layer, experts);
          },
          py::arg("layer"), py::arg("experts"))
      .def(
          "pin", [](StoreProbe& p, const std::vector<size_t>& groups) { p.store().Pin(groups, [] {}); },
          py::arg("groups"), Release())
      .def(
          "drop", [](StoreProbe& p) { p.store().Drop(); }, Release())
      .def(
          "shrink", [](StoreProbe& p, size_t bytes) { return p.store().Shrink(bytes); }, py::arg("bytes"),
          Release())
      .def(
          "grow", [](StoreProbe& p, size_t bytes) { return p.store().Grow(bytes); }, py::arg("bytes"),
          Release())
      .def("counters",
           [](StoreProbe& p) {
             const StoreCounters c = p.store().counters();
             return std::tuple(c.bytes_needed, c.bytes_hit, c.bytes_read, c.bytes_predicted_read,
                               c.bytes_wasted);
           })
      .def_property_readonly("slot_bytes", [](StoreProbe& p) { return p.store().slot_bytes(); })
      .def_property_readonly("capacity", [](StoreProbe& p) { return p.store().capacity_bytes(); })
      .def("resident", [](StoreProbe& p) { return p.store().Resident(); });
}

}  // namespace pygrok
