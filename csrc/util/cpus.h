#pragma once

namespace pygrok {

// How many threads this process may use: its affinity mask, cut by its cgroup's CPU quota; at least 1.
int AvailableCpus();

}  // namespace pygrok
