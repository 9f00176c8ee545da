// Every 64-bit ARM processor.
#include "kernels/simd_neon.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kNeonTable = MakeTable("neon", "NEON");

}  // namespace pygrok
