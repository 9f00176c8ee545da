#include "model/compute.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/activations.h"

namespace pygrok {
namespace {

// Starting a parallel region costs a few microseconds: a task should be worth it.
constexpr size_t kTaskOperations = 1 << 17;

// Takes what the prepared kQ8 row stands for from x.
void Subtract(const std::byte* row, size_t k, float* x) {
  const auto* blocks = reinterpret_cast<const ActivationBlock*>(row);
  for (size_t i = 0; i < k; ++i) {
    const ActivationBlock& block = blocks[i / kBlockValues];
    x[i] -= block.scale * static_cast<float>(block.values[i % kBlockValues]);
  }
}

}  // namespace

Precision ParsePrecision(const std::string& name) {
  if (name.empty()) return Precision::kAuto;
  if (name == "int8") return Precision::kInt8;
  if (name == "int16") return Precision::kInt16;
  if (name == "int24") return Precision::kInt24;
  throw std::invalid_argument("activations '" + name + "' is unknown: choose int8, int16 or int24");
}

void Activations::Set(const float* x, size_t n, size_t k) {
  x_ = x;
  n_ = n;
  k_ = k;
  for (bool& made : made_) made = false;
}

const std::byte* Activations::In(Form form) {
  const auto index = static_cast<size_t>(form);
  const size_t part_bytes = ActivationRowBytes(FormatOf(form), k_);
  const size_t row_bytes = FormRowBytes(form, k_);
  std::byte* out = forms_[index].Get(n_ * row_bytes);
  if (made_[index]) return out;
  made_[index] = true;
  const size_t per_task = std::max<size_t>(1, kTaskOperations / 4 / k_);
  pool_.Run((n_ + per_task - 1) / per_task, [&](size_t task, size_t) {
    std::vector<float> rest(PartsOf(form) > 1 ? k_ : 0);
    for (size_t t = task * per_task; t < std::min(n_, (task + 1) * per_task); ++t) {
      const float* x = x_ + t * k_;
      std::byte* row = out + t * row_bytes;
      kernels_.prepare(FormatOf(form), x, k_, row);
      if (PartsOf(form) > 1) std::copy_n(x, k_, rest.data());
      for (size_t part = 1; part < PartsOf(form); ++part, row += part_bytes) {
        Subtract(row, k_, rest.data());
        kernels_.prepare(FormatOf(form), rest.data(), k_, row + part_bytes);
      }
    }
  });
  return out;
}

Compute::Compute(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger, Precision precision)
    : kernels_(kernels),
      pool_(pool),
      ledger_(ledger),
      precision_(precision),
      scratch_(ledger),
      scratch_data_(scratch_.Get(static_cast<size_t>(pool.size()) * kScratchBytes)),
      parts_(ledger) {}

Form Compute::FormOf(const Matrix& m) const {
  const ActivationFormat format = kernels_.of(m.type).activation;
  if (format != ActivationFormat::kQ8) return static_cast<Form>(format);
  Precision precision = precision_;
  if (precision == Precision::kAuto) {
    precision = m.type == TensorType::kQ8_0 ? Precision::kInt24 : Precision::kInt8;
  }
  return precision == Precision::kInt8    ? Form::kQ8
         : precision == Precision::kInt16 ? Form::kQ8x2
                                          : Form::kQ8x3;
}

void Compute::Matmul(const std::vector<MatmulJob>& jobs) {
  struct Range {
    size_t first_task;
    size_t tile_rows;
    size_t parts;
  };
  std::vector<Range> ranges;
  size_t tasks = 0;
  size_t part_floats = 0;
  for (const MatmulJob& job : jobs) {
    const size_t parts = PartsOf(FormOf(*job.matrix));
    const size_t operations = job.matrix->columns * std::max<size_t>(1, job.n) * parts;
    const size_t tile = RoundUp(std::max<size_t>(1, kTaskOperations / operations), kRowTile);
    ranges.push_back({tasks, tile, parts});
    if (job.n > 0) tasks += (job.matrix->rows + tile - 1) / tile;
    if (parts > 1) part_floats = std::max(part_floats, std::min(tile, job.matrix->rows) * job.n * parts);
  }
  part_floats = RoundUp(part_floats, kCacheLine / sizeof(float));
  float* parts_out = parts_.Get(part_floats * static_cast<size_t>(pool_.size()));
  pool_.Run(tasks, [&](size_t task, size_t worker) {
    size_t j = jobs.size() - 1;
    while (ranges[j].first_task > task) --j;
    const MatmulJob& job = jobs[j];
    const Range& range = ranges[j];
    const Matrix& m = *job.matrix;
    const size_t begin = (task - range.first_task) * range.tile_rows;
    MatmulArgs args = {.weights = m.data + begin * m.row_bytes,
                       .row_bytes = m.row_bytes,
                       .rows = std::min(range.tile_rows, m.rows - begin),
                       .k = m.columns,
                       .activations = job.activations,
                       .n = job.n * range.parts,
                       .out = job.out + begin,
                       .out_stride = m.rows,
                       .scratch = scratch(worker)};
    if (range.parts == 1) {
      kernels_.of(m.type).matmul(args);
      return;
    }
    args.out = parts_out + worker * part_floats;
    args.out_stride = args.rows;
    kernels_.of(m.type).matmul(args);
    for (size_t t = 0; t < job.n; ++t) {
      const float* part = args.out + t * range.parts * args.rows;
      float* to = job.out + t * m.rows + begin;
      std::copy_n(part, args.rows, to);
      for (size_t p = 1; p < range.parts; ++p) {
        for (size_t r = 0; r < args.rows; ++r) to[r] += part[p * args.rows + r];
      }
    }
  });
}

void Compute::ForRows(size_t rows, size_t work, const std::function<void(size_t)>& body) {
  const size_t per_task = std::max<size_t>(1, kTaskOperations / std::max<size_t>(1, work));
  pool_.Run((rows + per_task - 1) / per_task, [&](size_t task, size_t) {
    for (size_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) body(r);
  });
}

}  // namespace pygrok
