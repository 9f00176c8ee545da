#include "bindings/errors.h"

#include <pybind11/pybind11.h>

#include <exception>
#include <system_error>

#include "util/error.h"

namespace py = pybind11;

namespace pygrok {
namespace {

void Raise(const char* name, const Error& error) {
  py::set_error(py::module_::import("pygrok.errors").attr(name), error.what());
}

void Translate(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const FormatError& e) {
    Raise("FormatError", e);
  } catch (const ModelError& e) {
    Raise("ModelError", e);
  } catch (const ContextOverflow& e) {
    Raise("ContextOverflow", e);
  } catch (const MemoryLimit& e) {
    Raise("MemoryLimit", e);
  } catch (const Cancelled& e) {
    Raise("Cancelled", e);
  } catch (const Error& e) {
    Raise("PygrokError", e);
  } catch (const std::system_error& e) {
    // OSError picks its subclass (FileNotFoundError, ...) by errno.
    const py::object error = py::handle(PyExc_OSError)(e.code().value(), e.what());
    py::set_error(py::type::of(error), error);
  }
}

}  // namespace

void RegisterErrors() { py::register_exception_translator(&Translate); }

}  // namespace pygrok
