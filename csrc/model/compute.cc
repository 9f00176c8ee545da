#include "model/compute.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "io/expert_store.h"
#include "kernels/activations.h"

namespace pygrok {
namespace {

// Starting a parallel region costs a few microseconds: a task should be worth it.
constexpr size_t kTaskOperations = 1 << 17;
// Of weights, for few tokens: sixteen streams of 64 KiB.
constexpr size_t kTaskBytes = 1 << 20;
// At least so many, so that a thread that is held up leaves its share to the others.
constexpr size_t kTasksOfThread = 8;
// From here on every table multiplies unpacked panels with tiles of tokens (kDirectTokens is at most 12).
constexpr size_t kPanelTokens = 13;
constexpr size_t kPanelTokensRows = 512;
// Tasks of paged rows also ask the store for them.
constexpr size_t kPagedTaskOperations = 1 << 20;

// Takes what the prepared kQ8 row stands for from x.
void Subtract(const std::byte* row, size_t k, float* x) {
  const auto* blocks = reinterpret_cast<const ActivationBlock*>(row);
  for (size_t i = 0; i < k; ++i) {
    const ActivationBlock& block = blocks[i / kBlockValues];
    x[i] -= block.scale * static_cast<float>(block.values[i % kBlockValues]);
  }
}

// Rows that lie together: a whole matrix, or a piece of a paged one. Tasks are tiles of them.
struct Stretch {
  const MatmulJob* job;
  size_t parts;
  size_t first_row;  // in the matrix
  size_t rows;
  size_t piece;  // of a paged matrix
  size_t tile_rows;
  size_t first_task;
};

// Rows of a task: worth its start and, where that leaves every thread many tasks, long enough to be read as
// streams (kernels/matmul_decode.inl.h). Many tokens come from afar for every task: the more rows they pass
// there, the better. (In parts, their products need a buffer, which is to stay small.)
size_t TaskRows(const Matrix& m, size_t operations, size_t parts, size_t threads) {
  const size_t worthwhile = std::max<size_t>(1, kTaskOperations / operations);
  const bool many_tokens = parts == 1 && operations >= kPanelTokens * m.columns;
  const size_t long_enough =
      many_tokens ? kPanelTokensRows : std::bit_floor(std::max<size_t>(1, kTaskBytes / m.row_bytes));
  const size_t many = m.rows / (threads * kTasksOfThread);
  return RoundUp(std::max(worthwhile, std::min(long_enough, many)), kRowTile);
}

// The stretches of all jobs. What has yet to come from the disk is last, in the order in which it is read.
std::vector<Stretch> StretchesOf(const std::vector<MatmulJob>& jobs, const Compute& compute, size_t threads) {
  std::vector<Stretch> stretches;
  std::vector<Stretch> absent;
  for (const MatmulJob& job : jobs) {
    if (job.n == 0) continue;
    const Matrix& m = *job.matrix;
    const size_t parts = PartsOf(compute.FormOf(m, job.n));
    const size_t operations = m.columns * job.n * parts;
    if (m.paged == nullptr) {
      stretches.push_back({&job, parts, 0, m.rows, 0, TaskRows(m, operations, parts, threads), 0});
      continue;
    }
    const size_t tile = RoundUp(std::max<size_t>(1, kPagedTaskOperations / operations), kRowTile);
    for (size_t first = 0; first < m.rows; first += m.paged->rows) {
      const size_t piece = m.paged->first_piece + first / m.paged->rows;
      const size_t rows = std::min(m.paged->rows, m.rows - first);
      (m.paged->store->Has(piece) ? stretches : absent).push_back({&job, parts, first, rows, piece, tile, 0});
    }
  }
  stretches.insert(stretches.end(), absent.begin(), absent.end());
  return stretches;
}

// Some rows of a stretch, in memory for as long as this lives.
struct Rows {
  Rows(const Stretch& stretch, size_t first, bool polls) : piece(stretch.piece) {
    const Matrix& m = *stretch.job->matrix;
    paged = m.paged;
    begin = stretch.first_row + first;
    count = std::min(stretch.tile_rows, stretch.rows - first);
    data = paged == nullptr ? m.data + begin * m.row_bytes
                            : paged->store->Acquire(piece, polls) + first * m.row_bytes;
  }
  ~Rows() {
    if (paged != nullptr) paged->store->Finish(piece, count);
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  const size_t piece;
  const PagedRows* paged;
  size_t begin;  // in the matrix
  size_t count;
  const std::byte* data;
};

}  // namespace

Precision ParsePrecision(const std::string& name) {
  if (name.empty()) return Precision::kAuto;
  if (name == "int8") return Precision::kInt8;
  if (name == "int16") return Precision::kInt16;
  if (name == "int24") return Precision::kInt24;
  throw std::invalid_argument("activations '" + name + "' is unknown: choose int8, int16 or int24");
}

ActivationFormat FormatOf(Form form) {
  switch (form) {
    case Form::kF32:
      return ActivationFormat::kF32;
    case Form::kBf16:
    case Form::kTiles:
      return ActivationFormat::kBf16;
    case Form::kTilesx3:
      return ActivationFormat::kBf16x3;
    default:
      return ActivationFormat::kQ8;
  }
}

size_t FormRowBytes(Form form, size_t k) {
  const size_t bytes = PartsOf(form) * ActivationRowBytes(FormatOf(form), k);
  // Without the padding of a row, which may be a piece.
  return InPieces(form) ? k / kBlockValues * kPieceBytes * (form == Form::kTilesx3 ? 3 : 1) : bytes;
}

void Activations::Set(const float* x, size_t n, size_t k) {
  x_ = x;
  n_ = n;
  k_ = k;
  for (bool& made : made_) made = false;
}

Vectors Activations::In(Form form) {
  const auto index = static_cast<size_t>(form);
  const size_t row_bytes = FormRowBytes(form, k_);
  std::byte* out = forms_[form].Get(n_ * row_bytes);
  if (made_[index]) return {out, n_};
  made_[index] = true;
  const size_t per_task = std::max<size_t>(1, kTaskOperations / 4 / k_);
  pool_.Run((n_ + per_task - 1) / per_task, [&](size_t task, size_t) {
    AlignedBuffer<std::byte> row(InPieces(form) ? row_bytes : 0);
    for (size_t t = task * per_task; t < std::min(n_, (task + 1) * per_task); ++t) {
      if (InPieces(form)) {
        kernels_.prepare(FormatOf(form), x_ + t * k_, k_, row.data());
        for (size_t i = 0; i < row_bytes / kPieceBytes; ++i) {
          std::memcpy(out + (i * n_ + t) * kPieceBytes, row.data() + i * kPieceBytes, kPieceBytes);
        }
      } else {
        PrepareParts(form, x_ + t * k_, out + t * row_bytes);
      }
    }
  });
  return {out, n_};
}

void Activations::PrepareParts(Form form, const float* x, std::byte* row) {
  const size_t part_bytes = ActivationRowBytes(FormatOf(form), k_);
  kernels_.prepare(FormatOf(form), x, k_, row);
  if (PartsOf(form) == 1) return;
  std::vector<float> rest(x, x + k_);
  for (size_t part = 1; part < PartsOf(form); ++part, row += part_bytes) {
    Subtract(row, k_, rest.data());
    kernels_.prepare(FormatOf(form), rest.data(), k_, row + part_bytes);
  }
}

Vectors Activations::Gather(Form form, const std::vector<size_t>& rows, std::byte* out) {
  const Vectors from = In(form);
  const size_t row_bytes = FormRowBytes(form, k_);
  // What lies together of a row, and how often.
  const size_t bytes = InPieces(form) ? kPieceBytes : row_bytes;
  for (size_t i = 0; i < row_bytes / bytes; ++i) {
    for (size_t r = 0; r < rows.size(); ++r) {
      std::memcpy(out + (i * rows.size() + r) * bytes, from.data + (i * n_ + rows[r]) * bytes, bytes);
    }
  }
  return {out, rows.size()};
}

Compute::Compute(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger, Precision precision)
    : kernels_(kernels),
      pool_(pool),
      ledger_(ledger),
      precision_(precision),
      scratch_(ledger),
      scratch_data_(scratch_.Get(static_cast<size_t>(pool.size()) * kScratchBytes)),
      parts_(ledger) {}

bool Compute::TakesMany(const Matrix& m, size_t n) const {
  return precision_ == Precision::kAuto && n >= kManyTokens && m.columns % kBlockValues == 0 &&
         kernels_.of(m.type).matmul_many != nullptr;
}

Form Compute::FormOf(const Matrix& m, size_t n) const {
  if (TakesMany(m, n)) {
    const bool exact = kernels_.of(m.type).many_activation == ActivationFormat::kBf16x3;
    return exact ? Form::kTilesx3 : Form::kTiles;
  }
  const ActivationFormat format = kernels_.of(m.type).activation;
  if (format == ActivationFormat::kF32) return Form::kF32;
  if (format == ActivationFormat::kBf16) return Form::kBf16;
  Precision precision = precision_;
  if (precision == Precision::kAuto) {
    precision = m.type == TensorType::kQ8_0 ? Precision::kInt24 : Precision::kInt8;
  }
  return precision == Precision::kInt8    ? Form::kQ8
         : precision == Precision::kInt16 ? Form::kQ8x2
                                          : Form::kQ8x3;
}

void Compute::Matmul(const std::vector<MatmulJob>& jobs) {
  std::vector<Stretch> stretches = StretchesOf(jobs, *this, static_cast<size_t>(pool_.size()));
  size_t tasks = 0;
  size_t part_floats = 0;
  for (Stretch& s : stretches) {
    s.first_task = tasks;
    tasks += (s.rows + s.tile_rows - 1) / s.tile_rows;
    if (s.parts > 1) part_floats = std::max(part_floats, std::min(s.tile_rows, s.rows) * s.job->n * s.parts);
  }
  part_floats = RoundUp(part_floats, kCacheLine / sizeof(float));
  float* parts_out = parts_.Get(part_floats * static_cast<size_t>(pool_.size()));
  pool_.Run(tasks, [&](size_t task, size_t worker) {
    const Stretch& stretch =
        *std::prev(std::upper_bound(stretches.begin(), stretches.end(), task,
                                    [](size_t index, const Stretch& s) { return index < s.first_task; }));
    const MatmulJob& job = *stretch.job;
    const Matrix& m = *job.matrix;
    const Rows rows(stretch, (task - stretch.first_task) * stretch.tile_rows, worker == 0);
    const Vectors& vectors = job.activations;
    const Form form = FormOf(m, job.n);
    MatmulArgs args = {.weights = rows.data,
                       .row_bytes = m.row_bytes,
                       .rows = rows.count,
                       .k = m.columns,
                       .activations = vectors.data + vectors.first * FormRowBytes(form, m.columns),
                       .n = job.n * stretch.parts,
                       .out = job.out + rows.begin,
                       .out_stride = m.rows,
                       .scratch = scratch(worker)};
    const WeightKernels& kernels = kernels_.of(m.type);
    if (InPieces(form)) {
      args.activations = vectors.data + vectors.first * kPieceBytes;
      args.piece_stride = vectors.total * kPieceBytes;
      kernels.matmul_many(args);
      return;
    }
    if (stretch.parts == 1) {
      kernels.matmul(args);
      return;
    }
    args.out = parts_out + worker * part_floats;
    args.out_stride = args.rows;
    kernels.matmul(args);
    for (size_t t = 0; t < job.n; ++t) {
      const float* part = args.out + t * stretch.parts * args.rows;
      float* to = job.out + t * m.rows + rows.begin;
      std::copy_n(part, args.rows, to);
      for (size_t p = 1; p < stretch.parts; ++p) {
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
