#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "io/text.h"
#include "util/error.h"

namespace pygrok {
namespace {

// Closes the descriptor when done: a mapping outlives it, and a split set would hold many.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void ThrowErrno(const std::string& path, const char* action) {
  throw std::system_error(errno, std::generic_category(), Printable(path) + ": cannot " + action);
}

int OpenReadOnly(const std::string& path, int more = 0) {
  // Without O_NONBLOCK the open of a FIFO waits for a writer.
  for (;;) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | more);
    if (fd >= 0 || errno != EINTR) return fd;
  }
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor fd(OpenReadOnly(path));
  if (fd.get() < 0) ThrowErrno(path, "open");
  struct stat status;
  if (fstat(fd.get(), &status) != 0) ThrowErrno(path, "inspect");
  if (S_ISDIR(status.st_mode)) throw FormatError(Printable(path) + ": is a directory: name a file in it");
  if (!S_ISREG(status.st_mode))
    throw FormatError(Printable(path) + ": is not a regular file, so it cannot be mapped");
  if (status.st_size <= 0)
    throw FormatError(Printable(path) + ": the file is empty: download or convert it again");
  if (static_cast<uint64_t>(status.st_size) > SIZE_MAX / 2) {
    throw FormatError(Printable(path) + ": the file is too large for the address space");
  }
  size_ = static_cast<size_t>(status.st_size);
  device_ = status.st_dev;
  inode_ = status.st_ino;
  void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) ThrowErrno(path, "map");
  data_ = static_cast<const std::byte*>(data);
  try {
    guard_ = GuardedRange(bytes());
  } catch (...) {
    munmap(data, size_);  // the destructor does not run for an object that was never made
    throw;
  }
}

MappedFile::~MappedFile() {
  guard_ = GuardedRange();
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_),
      inode_(other.inode_),
      guard_(std::move(other.guard_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  std::swap(guard_, other.guard_);
  return *this;
}

void MappedFile::ThrowUnreadable() const {
  struct stat now;
  const bool same = stat(path_.c_str(), &now) == 0 && now.st_dev == device_ && now.st_ino == inode_;
  if (same && static_cast<uint64_t>(now.st_size) < size_) {
    throw FormatError(Printable(path_) + ": was cut from " + std::to_string(size_) + " to " +
                      std::to_string(now.st_size) +
                      " bytes while in use: put the whole file back, then load it again");
  }
  throw FormatError(Printable(path_) +
                    ": part of it could not be read while in use, since the file was changed or its disk "
                    "fails: put the file right, then load it again");
}

int MappedFile::OpenAgain(bool direct) const {
  const int fd = OpenReadOnly(path_, direct ? O_DIRECT : 0);
  if (fd < 0 && direct && errno == EINVAL) return -1;
  if (fd < 0) ThrowErrno(path_, "open");
  struct stat status;
  const bool known = fstat(fd, &status) == 0;
  if (known && status.st_dev == device_ && status.st_ino == inode_) return fd;
  close(fd);
  throw FormatError(Printable(path_) + ": was replaced while it was opened: load it again");
}

void MappedFile::Advise(size_t offset, size_t length, Access access) const {
  if (data_ == nullptr || offset >= size_ || length == 0) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t begin = offset;
  size_t end = offset + std::min(length, size_ - offset);
  int advice = MADV_NORMAL;
  switch (access) {
    case Access::kNormal:
      advice = MADV_NORMAL;
      break;
    case Access::kRandom:
      advice = MADV_RANDOM;
      break;
    case Access::kSequential:
      advice = MADV_SEQUENTIAL;
      break;
    case Access::kWillNeed:
      advice = MADV_WILLNEED;
      break;
    case Access::kDontNeed:
      advice = MADV_DONTNEED;
      break;
  }
  if (access == Access::kDontNeed) {
    // A page that the range shares with a neighbour stays; the file's last page has no neighbour.
    begin = (begin + page - 1) / page * page;
    if (end != size_) end = end / page * page;
    if (begin >= end) return;
  } else {
    begin = begin / page * page;
  }
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, advice);
}

}  // namespace pygrok
