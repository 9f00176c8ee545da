#include "io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace pygrok {

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  for (int attempt = 0; fd_ < 0; ++attempt) {
    temporary_ = path + "." + std::to_string(getpid()) + "-" + std::to_string(attempt) + ".tmp";
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && (errno != EEXIST || attempt == 1000)) Fail("cannot create a file beside");
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::Write(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd_, p, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) Fail("cannot write");
    p += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::Commit() {
  if (fsync(fd_) != 0) Fail("cannot write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) Fail("cannot replace");
  close(fd_);
  fd_ = -1;
}

void AtomicFile::Fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), std::string(what) + " " + path_);
}

}  // namespace pygrok
