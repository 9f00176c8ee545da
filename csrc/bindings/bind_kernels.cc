#include "bindings/bind_kernels.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/kernel_hooks.h"
#include "io/mapped_file.h"
#include "kernels/limits.h"
#include "kernels/registry.h"
#include "util/cpus.h"
#include "util/thread_pool.h"

namespace py = pybind11;

namespace pygrok {
namespace {

std::vector<std::string> NamesOf(const std::vector<const KernelTable*>& tables) {
  std::vector<std::string> names;
  for (const KernelTable* table : tables) names.emplace_back(table->name);
  return names;
}

std::vector<std::string> RunnableTypes() {
  std::vector<std::string> names;
  for (uint32_t number = 0; number < kTensorTypeLimit; ++number) {
    const TensorTypeInfo* info = FindTensorType(number);
    if (info != nullptr && SelectTable("").of(info->type).matmul != nullptr) names.emplace_back(info->name);
  }
  return names;
}

int ThreadCount(int threads) {
  if (threads < 0 || threads > 1024) throw std::invalid_argument("threads must be 0 (all available) to 1024");
  return threads == 0 ? AvailableCpus() : threads;
}

double MeasureReadBandwidth(const std::string& path, size_t offset, size_t length, int threads) {
  const int count = ThreadCount(threads);
  const py::gil_scoped_release release;
  const MappedFile file(path);
  if (length == 0) throw std::invalid_argument("length must be at least 1 byte");
  if (offset > file.size() || length > file.size() - offset) {
    throw std::invalid_argument(path + ": offset " + std::to_string(offset) + " + length " +
                                std::to_string(length) + " goes beyond the file's " +
                                std::to_string(file.size()) + " bytes");
  }
  ThreadPool pool(count);
  const double rate = ReadBandwidth(file.data() + offset, length, pool);
  file.RequireReadable();
  return rate;
}

double MeasureDotRate(int threads, const std::string& isa, double seconds) {
  const int count = ThreadCount(threads);
  if (!(seconds > 0 && seconds <= 60)) throw std::invalid_argument("seconds must be above 0 and at most 60");
  const KernelTable& kernels = SelectTable(isa);
  const py::gil_scoped_release release;
  ThreadPool pool(count);
  return DotRate(kernels, pool, seconds);
}

}  // namespace

void BindKernels(py::module_& m) {
  m.def("compiled_isas", [] { return NamesOf(CompiledTables()); });
  m.def("supported_isas", [] { return NamesOf(SupportedTables()); });
  m.def("runnable_types", &RunnableTypes);
  m.def("read_bandwidth", &MeasureReadBandwidth, py::arg("path"), py::arg("offset"), py::arg("length"),
        py::arg("threads"));
  m.def("dot_rate", &MeasureDotRate, py::arg("threads"), py::arg("isa"), py::arg("seconds"));
  BindKernelHooks(m);
}

}  // namespace pygrok
