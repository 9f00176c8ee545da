// Pieces of model files brought into memory: by direct reads, by buffered ones, or through the mapping.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include "io/mapped_file.h"

namespace pygrok {

// A run of bytes of one of a model's files.
struct FileRange {
  size_t file;
  size_t offset;
  size_t bytes;
};

enum class ReadMode {
  kDirect,    // past the system's cache, into memory of our own
  kBuffered,  // through the system's cache, which is told to forget them, into memory of our own
  kMapped,    // into the system's cache, to be used where the file is mapped
};

// Safe for use from several threads at once.
class PieceReader {
 public:
  // What direct reads want of offsets, lengths and memory.
  static constexpr size_t kAlignment = 4096;

  // Throws std::system_error, FormatError (a file was replaced), ModelError where direct reads are refused.
  PieceReader(const std::vector<MappedFile>& files, ReadMode mode);
  ~PieceReader();
  PieceReader(const PieceReader&) = delete;
  PieceReader& operator=(const PieceReader&) = delete;

  ReadMode mode() const { return mode_; }

  // The bytes that Read transfers and a slot must hold: the range, widened to whole units of kAlignment.
  static size_t ReadBytes(const FileRange& range);

  // Brings the range in; returns where its first byte is: in `slot`, which is aligned, or in the mapping.
  // Throws FormatError, naming the file, when it was cut short or its disk fails. Once `cancel` is set it may
  // stop early and return nullptr. Adds what it transfers to `bytes`.
  const std::byte* Read(const FileRange& range, std::byte* slot, const std::atomic<bool>* cancel = nullptr,
                        size_t* bytes = nullptr) const;

  // Forgets what a kMapped Read brought in.
  void Drop(const FileRange& range) const;

 private:
  const std::byte* ReadMapped(const FileRange& range, size_t* bytes) const;
  void Close();

  const std::vector<MappedFile>& files_;
  const ReadMode mode_;
  std::vector<int> descriptors_;  // [files]
};

// Bytes per second at which `readers` threads bring the ranges in, each once, for at most about `seconds`.
// Throws as Read does, std::bad_alloc.
double MeasureReads(const PieceReader& reader, const std::vector<FileRange>& ranges, int readers,
                    double seconds);

}  // namespace pygrok
