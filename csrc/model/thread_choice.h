// How many threads to compute with when nobody says.
#pragma once

#include "kernels/kernel_table.h"

namespace pygrok {

// At most `cpus`. A measurement of some milliseconds: the rate of integer dot products with all processors
// and with half of them; fewer are taken where more would not gain a tenth, as with two hardware threads of
// one core. The same answer for the life of the process.
int FastestThreadCount(const KernelTable& kernels, int cpus);

}  // namespace pygrok
