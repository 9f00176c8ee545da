// Most 64-bit ARM processors since 2018.
#include "kernels/simd_neon.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kNeonDotprodTable = MakeTable("neon_dotprod", "NEON with dot products");

}  // namespace pygrok
