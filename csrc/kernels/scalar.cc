// Portable C++: runs everywhere, and every other table is tested against it.
#include "kernels/simd_scalar.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kScalarTable = MakeTable("scalar", "portable C++");

}  // namespace pygrok
