// What the layers compute with: the kernel table, the threads, and matmuls spread over them.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/kernel_table.h"
#include "model/weights.h"
#include "util/aligned.h"
#include "util/memory_ledger.h"
#include "util/thread_pool.h"

namespace pygrok {

inline constexpr size_t kActivationFormats = 3;

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

// n activation vectors of k values each, f32, and the forms that matmuls want of them, made when first
// wanted.
class Activations {
 public:
  Activations(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger)
      : kernels_(kernels),
        pool_(pool),
        forms_{Buffer<std::byte>(ledger), Buffer<std::byte>(ledger), Buffer<std::byte>(ledger)} {}

  // x [n][k] stays the caller's and must live on.
  void Set(const float* x, size_t n, size_t k);
  size_t n() const { return n_; }

  const std::byte* In(ActivationFormat format);

 private:
  const KernelTable& kernels_;
  ThreadPool& pool_;
  Buffer<std::byte> forms_[kActivationFormats];  // by ActivationFormat
  bool made_[kActivationFormats] = {};
  const float* x_ = nullptr;
  size_t n_ = 0;
  size_t k_ = 0;
};

// One product: out[t * matrix.rows + r] = matrix[r] . x[t].
struct MatmulJob {
  const Matrix* matrix;
  const std::byte* activations;  // [n] rows in the format of the matrix's type
  size_t n;
  float* out;
};

class Compute {
 public:
  Compute(const KernelTable& kernels, ThreadPool& pool, MemoryLedger* ledger);

  const KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  MemoryLedger* ledger() const { return ledger_; }
  ActivationFormat format(const Matrix& m) const { return kernels_.of(m.type).activation; }

  // All jobs in one parallel region.
  void Matmul(const std::vector<MatmulJob>& jobs);

  // body(row) for every row, spread over threads when there is enough to do: about `work` operations a row.
  void ForRows(size_t rows, size_t work, const std::function<void(size_t)>& body);

  // The worker's kScratchBytes.
  std::byte* scratch(size_t worker) { return scratch_.data() + worker * kScratchBytes; }

 private:
  const KernelTable& kernels_;
  ThreadPool& pool_;
  MemoryLedger* ledger_;
  AlignedBuffer<std::byte> scratch_;
};

}  // namespace pygrok
