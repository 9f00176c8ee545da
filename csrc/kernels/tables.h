// The tables that the per-instruction-set files export, one each. Only registry.cc reads this list.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {

extern const KernelTable kScalarTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx2VnniTable;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512Bf16Table;
extern const KernelTable kAvx512AmxTable;
#elif defined(__aarch64__)
extern const KernelTable kNeonTable;
extern const KernelTable kNeonDotprodTable;
extern const KernelTable kNeonI8mmTable;
#endif

}  // namespace pygrok
