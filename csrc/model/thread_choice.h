// How many threads to compute with when nobody says.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {

// At most `cpus`. A short measurement: the rate of integer dot products with all processors and with fewer;
// fewer are taken where more would not gain a tenth, as with two hardware threads of one core, or a quota
// below the number of processors. Some milliseconds; the same answer for the life of the process.
int FastestThreadCount(const KernelTable& kernels, int cpus);

}  // namespace pygrok
