// A file mapped read-only. The only place that knows how an operating system maps files.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

#include "io/fault_guard.h"

namespace pygrok {

enum class Access { kNormal, kRandom, kSequential, kWillNeed, kDontNeed };

class MappedFile {
 public:
  // Throws std::system_error (with the path in its text) when the file cannot be opened or mapped,
  // FormatError when it is empty or not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // Throws FormatError, saying what happened, if a page could not be read since the file was mapped: what was
  // read from there were zeros. Ask after reading and before using what was made of it.
  void RequireReadable() const {
    if (guard_.broken()) ThrowUnreadable();
  }

  // Throws that FormatError: for who finds by other means that the file cannot be read.
  [[noreturn]] void ThrowUnreadable() const;

  // A new descriptor of the mapped file, for reads that bypass the mapping; with `direct`, also the system's
  // cache. Returns -1 where the file system refuses direct reads. Throws std::system_error, FormatError if
  // the path names another file by now.
  int OpenAgain(bool direct) const;

  // A hint about [offset, offset + length); rounded to pages inwards or outwards as is safe; never fails.
  void Advise(size_t offset, size_t length, Access access) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  dev_t device_ = 0;  // with inode_: whether the path still names this file
  ino_t inode_ = 0;
  GuardedRange guard_;
};

}  // namespace pygrok
