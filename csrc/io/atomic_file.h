// A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <string>

namespace pygrok {

// Writes to a temporary file beside `path`; Commit makes it durable and renames it. Without Commit nothing is
// left. All methods throw std::system_error naming the path.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(const void* data, size_t bytes);
  void Commit();

 private:
  [[noreturn]] void Fail(const char* what);

  const std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace pygrok
