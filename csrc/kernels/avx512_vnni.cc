// Since 2019 (Cascade Lake, Ice Lake, Zen 4): int8 dot products in one instruction.
#include "kernels/simd_avx512.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kAvx512VnniTable = MakeTable("avx512_vnni", "AVX-512 with VNNI");

}  // namespace pygrok
