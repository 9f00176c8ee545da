// What the layers compute with: the kernel table, the threads, and matmuls spread over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "model/weights.h"
#include "util/aligned.h"
#include "util/memory_ledger.h"
#include "util/thread_pool.h"

namespace pygrok {

// How precisely activations meet quantized weights: as one, two or three int8 per value, each for what those
// before it leave over. One has a noise of about 0.4 %, below that of 4-bit weights but above that of 8-bit
// ones; it can move a token to another expert. Three are as good as f32. More than one costs decoding
// nothing, which waits for memory, but multiplies the work of a prefill.
enum class Precision : uint8_t {
  kAuto,  // kInt24 for Q8_0 weights, which hold the release exactly, else kInt8; or matmul_many
  kInt8,
  kInt16,
  kInt24,
};

// Names as in activations="int8"; empty means kAuto. Throws std::invalid_argument, listing the choices.
Precision ParsePrecision(const std::string& name);

// The forms in which a matmul may want its activations. A row in kQ8x2 is two kQ8 rows, whose products are
// added. kTiles and kTilesx3 are kBf16 and kBf16x3 in pieces, for matmul_many.
enum class Form : uint8_t { kF32, kBf16, kQ8, kQ8x2, kQ8x3, kTiles, kTilesx3 };
inline constexpr size_t kForms = 7;

inline bool InPieces(Form form) { return form >= Form::kTiles; }
// Rows of its format that stand for one vector.
inline size_t PartsOf(Form form) { return form == Form::kQ8x2 ? 2 : form == Form::kQ8x3 ? 3 : 1; }
ActivationFormat FormatOf(Form form);
// Bytes of one vector of k values.
size_t FormRowBytes(Form form, size_t k);

// Some of the vectors that were prepared together.
struct Vectors {
  const std::byte* data;  // of all of them
  size_t total;
  size_t first = 0;
};

// A buffer that grows to the largest size asked of it; its contents do not survive growing.
template <typename T>
class Buffer {
 public:
  explicit Buffer(MemoryLedger* ledger) : ledger_(ledger) {}
  ~Buffer() { ledger_->Release(data_.size() * sizeof(T)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Throws MemoryLimit.
  T* Get(size_t size) {
    if (size > data_.size()) {
      ledger_->Release(data_.size() * sizeof(T));
      data_ = {};
      ledger_->Charge(size * sizeof(T), "a working buffer");
      try {
        data_ = AlignedBuffer<T>(size);
      } catch (const std::bad_alloc&) {
        ledger_->Release(size * sizeof(T));
        throw MemoryLimit("the system has no memory for a working buffer of " +
                          std::to_string(size * sizeof(T)) + " bytes");
      }
    }
    return data_.data();
  }

 private:
  MemoryLedger* ledger_;
  AlignedBuffer<T> data_;
};

// One for each form.
class FormBuffers {
 public:
  explicit FormBuffers(MemoryLedger* ledger) {
    for (auto& buffer : buffers_) buffer = std::make_unique<Buffer<std::byte>>(ledger);
  }
  Buffer<std::byte>& operator[](Form form) { return *buffers_[static_cast<size_t>(form)]; }

 private:
  std::unique_ptr<Buffer<std::byte>> buffers_[kForms];
};

// n activation vectors of k values each, f32, and the forms that matmuls want of them, made when first
// wanted.
class Activations {
 public:
  Activations(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger)
      : kernels_(kernels), pool_(pool), forms_(ledger) {}

  // x [n][k] stays the caller's and must live on.
  void Set(const float* x, size_t n, size_t k);
  size_t n() const { return n_; }

  Vectors In(Form form);
  // Of these vectors in this order, written to `out`: rows.size() * FormRowBytes.
  Vectors Gather(Form form, const std::vector<size_t>& rows, std::byte* out);

 private:
  void PrepareParts(Form form, const float* x, std::byte* row);

  const KernelTable& kernels_;
  ThreadPool& pool_;
  FormBuffers forms_;
  bool made_[kForms] = {};
  const float* x_ = nullptr;
  size_t n_ = 0;
  size_t k_ = 0;
};

// One product: out[t * matrix.rows + r] = matrix[r] . x[t].
struct MatmulJob {
  const Matrix* matrix;
  Vectors activations;  // in the form that n of them want of the matrix
  size_t n;
  float* out;
};

class Compute {
 public:
  Compute(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger, Precision precision);

  const KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  MemoryLedger* ledger() const { return ledger_; }
  // The form that products of n vectors with this matrix want.
  Form FormOf(const Matrix& m, size_t n) const;

  // All jobs in one parallel region; paged rows that are in memory go first.
  void Matmul(const std::vector<MatmulJob>& jobs);

  // body(row) for every row, spread over threads when there is enough to do: about `work` operations a row.
  void ForRows(size_t rows, size_t work, const std::function<void(size_t)>& body);

  // The worker's kScratchBytes.
  std::byte* scratch(size_t worker) { return scratch_data_ + worker * kScratchBytes; }

 private:
  // Whether products of n vectors with this matrix go to matmul_many.
  bool TakesMany(const Matrix& m, size_t n) const;

  const KernelTable& kernels_;
  ThreadPool& pool_;
  MemoryLedger* ledger_;
  const Precision precision_;
  Buffer<std::byte> scratch_;
  std::byte* scratch_data_;
  Buffer<float> parts_;  // [workers] of products with the parts of rows, before they are added
};

}  // namespace pygrok
