// Since 2021 (Alder Lake, whose AVX-512 is switched off): 8-bit dot products too.
#include "kernels/simd_avx2.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kAvx2VnniTable = MakeTable("avx2_vnni", "AVX2, FMA, F16C and VNNI");

}  // namespace pygrok
