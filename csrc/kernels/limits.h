// What this machine can do at best, measured: the two limits that decode and prefill are held against.
#pragma once

#include <cstddef>

#include "kernels/kernel_table.h"
#include "util/thread_pool.h"

namespace pygrok {

// Bytes per second at which the pool's threads read `data`, all of it, once it is in memory: the best of at
// least two passes after one that is not counted. Means memory only if `bytes` is well above the last cache's
// size.
double ReadBandwidth(const std::byte* data, size_t bytes, ThreadPool& pool);

// 2 x multiply-adds per second of the table's dot product (KernelTable::dot_rounds), all the pool's threads.
double DotRate(const KernelTable& kernels, ThreadPool& pool, double seconds);

}  // namespace pygrok
