#include "model/compute.h"

#include <algorithm>

namespace pygrok {
namespace {

// Starting a parallel region costs a few microseconds: a task should be worth it.
constexpr size_t kTaskOperations = 1 << 17;

}  // namespace

void Activations::Set(const float* x, size_t n, size_t k) {
  x_ = x;
  n_ = n;
  k_ = k;
  for (bool& made : made_) made = false;
}

const std::byte* Activations::In(ActivationFormat format) {
  const auto index = static_cast<size_t>(format);
  const size_t row_bytes = ActivationRowBytes(format, k_);
  std::byte* out = forms_[index].Get(n_ * row_bytes);
  if (!made_[index]) {
    made_[index] = true;
    const size_t per_task = std::max<size_t>(1, kTaskOperations / 4 / k_);
    pool_.Run((n_ + per_task - 1) / per_task, [&](size_t task, size_t) {
      for (size_t t = task * per_task; t < std::min(n_, (task + 1) * per_task); ++t) {
        kernels_.prepare(format, x_ + t * k_, k_, out + t * row_bytes);
      }
    });
  }
  return out;
}

Compute::Compute(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger)
    : kernels_(kernels),
      pool_(pool),
      ledger_(ledger),
      scratch_(static_cast<size_t>(pool.size()) * kScratchBytes) {}

void Compute::Matmul(const std::vector<MatmulJob>& jobs) {
  struct Range {
    size_t first_task;
    size_t tile_rows;
  };
  std::vector<Range> ranges;
  size_t tasks = 0;
  for (const MatmulJob& job : jobs) {
    const size_t operations = job.matrix->columns * std::max<size_t>(1, job.n);
    const size_t tile = RoundUp(std::max<size_t>(1, kTaskOperations / operations), kRowTile);
    ranges.push_back({tasks, tile});
    if (job.n > 0) tasks += (job.matrix->rows + tile - 1) / tile;
  }
  pool_.Run(tasks, [&](size_t task, size_t worker) {
    size_t j = jobs.size() - 1;
    while (ranges[j].first_task > task) --j;
    const MatmulJob& job = jobs[j];
    const Matrix& m = *job.matrix;
    const size_t begin = (task - ranges[j].first_task) * ranges[j].tile_rows;
    kernels_.of(m.type).matmul({.weights = m.data + begin * m.row_bytes,
                                .row_bytes = m.row_bytes,
                                .rows = std::min(ranges[j].tile_rows, m.rows - begin),
                                .k = m.columns,
                                .activations = job.activations,
                                .n = job.n,
                                .out = job.out + begin,
                                .out_stride = m.rows,
                                .scratch = scratch(worker)});
  });
}

void Compute::ForRows(size_t rows, size_t work, const std::function<void(size_t)>& body) {
  const size_t per_task = std::max<size_t>(1, kTaskOperations / std::max<size_t>(1, work));
  pool_.Run((rows + per_task - 1) / per_task, [&](size_t task, size_t) {
    for (size_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) body(r);
  });
}

}  // namespace pygrok
