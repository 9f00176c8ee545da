// Most x86-64 processors since 2013.
#include "kernels/simd_avx2.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kAvx2Table = MakeTable("avx2", "AVX2, FMA, F16C");

}  // namespace pygrok
