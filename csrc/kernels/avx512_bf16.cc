// Since 2020 (Cooper Lake, Sapphire Rapids, Zen 4): bfloat16 dot products too.
#include "kernels/simd_avx512.h"
#include "kernels/table.inl.h"
#include "kernels/tables.h"

namespace pygrok {

constinit const KernelTable kAvx512Bf16Table = MakeTable("avx512_bf16", "AVX-512 with VNNI and BF16");

}  // namespace pygrok
