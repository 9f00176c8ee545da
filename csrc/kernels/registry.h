// Which kernel tables this build has and this processor can run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernel_table.h"

namespace pygrok {

// All tables in the build, slowest first; "scalar" is always there.
const std::vector<const KernelTable*>& CompiledTables();
// Those of them that this processor runs.
std::vector<const KernelTable*> SupportedTables();

// The table of that name; an empty name means $PYGROK_ISA if set, else the best supported one.
// Throws std::invalid_argument, listing the choices, when it is unknown or not supported here.
const KernelTable& SelectTable(std::string_view name);

}  // namespace pygrok
