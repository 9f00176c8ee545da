// The extension module pygrok._core: private, wrapped by the Python package.
#include <pybind11/pybind11.h>

#include "bindings/bind_calibrate.h"
#include "bindings/bind_engine.h"
#include "bindings/bind_expert_store.h"
#include "bindings/bind_gguf.h"
#include "bindings/bind_kernels.h"
#include "bindings/bind_mapped_file.h"
#include "bindings/bind_quantize.h"
#include "bindings/errors.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ core of pygrok. Private: use the names in `pygrok`.";
  m.attr("__version__") = PYGROK_VERSION;
  pygrok::RegisterErrors();
  pygrok::BindMappedFile(m);
  pygrok::BindGguf(m);
  pygrok::BindKernels(m);
  pygrok::BindEngine(m);
  pygrok::BindExpertStore(m);
  pygrok::BindQuantize(m);
  pygrok::BindCalibrate(m);
}
