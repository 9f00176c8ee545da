// Server processors since 2017 (Skylake-SP).
#include "kernels/simd_avx512.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kAvx512Table = MakeTable("avx512", "AVX-512 F, BW, DQ, VL");

}  // namespace pygrok
