// What the processor and the operating system together let a program use.
#pragma once

namespace pygrok {

struct CpuFeatures {
  bool avx2 = false;         // with FMA and F16C
  bool avx2_vnni = false;    // and avx2
  bool avx512 = false;       // F, BW, DQ, VL, and all of avx2
  bool avx512_vnni = false;  // and avx512
  bool avx512_bf16 = false;  // and avx512_vnni
  bool avx512_amx = false;   // AMX-TILE and AMX-BF16, granted by the system, and avx512_bf16
  bool neon_dotprod = false;
  bool neon_i8mm = false;  // and neon_dotprod
};

const CpuFeatures& HostCpu();

}  // namespace pygrok
