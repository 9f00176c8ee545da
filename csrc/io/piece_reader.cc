#include "io/piece_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "io/text.h"
#include "util/aligned.h"
#include "util/error.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14
#endif

namespace pygrok {
namespace {

// One request. Larger ones were slower by up to a third, smaller ones no faster.
constexpr size_t kRequest = size_t{1} << 20;

size_t AlignDown(size_t n) { return n / PieceReader::kAlignment * PieceReader::kAlignment; }

}  // namespace

PieceReader::PieceReader(const std::vector<MappedFile>& files, ReadMode mode) : files_(files), mode_(mode) {
  try {
    for (const MappedFile& file : files) {
      descriptors_.push_back(file.OpenAgain(mode == ReadMode::kDirect));
      if (descriptors_.back() >= 0) continue;
      descriptors_.pop_back();
      throw ModelError(Printable(file.path()) +
                       ": its file system refuses direct reads: use expert_io='buffered'");
    }
  } catch (...) {
    Close();
    throw;
  }
}

PieceReader::~PieceReader() { Close(); }

void PieceReader::Close() {
  for (const int fd : descriptors_) close(fd);
}

size_t PieceReader::ReadBytes(const FileRange& range) {
  return RoundUp(range.offset + range.bytes, kAlignment) - AlignDown(range.offset);
}

const std::byte* PieceReader::Read(const FileRange& range, std::byte* slot, const std::atomic<bool>* cancel,
                                   size_t* bytes) const {
  if (mode_ == ReadMode::kMapped) return ReadMapped(range, bytes);
  const int fd = descriptors_[range.file];
  const size_t begin = AlignDown(range.offset);
  const size_t needed = range.offset + range.bytes - begin;
  const size_t wanted = ReadBytes(range);
  for (size_t done = 0; done < needed;) {
    if (cancel != nullptr && cancel->load()) return nullptr;
    const ssize_t got =
        pread(fd, slot + done, std::min(kRequest, wanted - done), static_cast<off_t>(begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EINVAL && mode_ == ReadMode::kDirect) {
      throw ModelError(Printable(files_[range.file].path()) +
                       ": its disk refuses direct reads in units of 4096 bytes: use expert_io='buffered'");
    }
    if (got <= 0) files_[range.file].ThrowUnreadable();
    done += static_cast<size_t>(got);
    if (bytes != nullptr) *bytes += static_cast<size_t>(got);
    // A direct read that stops inside a unit has met the end of the file.
    if (done < needed && mode_ == ReadMode::kDirect && done % kAlignment != 0) {
      files_[range.file].ThrowUnreadable();
    }
  }
  if (mode_ == ReadMode::kBuffered) {
    (void)posix_fadvise(fd, static_cast<off_t>(begin), static_cast<off_t>(wanted), POSIX_FADV_DONTNEED);
  }
  return slot + (range.offset - begin);
}

const std::byte* PieceReader::ReadMapped(const FileRange& range, size_t* bytes) const {
  const MappedFile& file = files_[range.file];
  const size_t begin = AlignDown(range.offset);
  const size_t length = range.offset + range.bytes - begin;
  // In large requests; populating alone would fault the pages in one by one, since the range is marked
  // random.
  (void)readahead(descriptors_[range.file], static_cast<off64_t>(begin), length);
  const std::byte* const data = file.data() + begin;
  while (madvise(const_cast<std::byte*>(data), length, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EFAULT || errno == EIO || errno == EHWPOISON) file.ThrowUnreadable();
    break;  // an older system: the pages come when they are touched
  }
  if (bytes != nullptr) *bytes += ReadBytes(range);
  return file.data() + range.offset;
}

void PieceReader::Drop(const FileRange& range) const {
  if (mode_ != ReadMode::kMapped) return;
  files_[range.file].Advise(range.offset, range.bytes, Access::kDontNeed);
  (void)posix_fadvise(descriptors_[range.file], static_cast<off_t>(range.offset),
                      static_cast<off_t>(range.bytes), POSIX_FADV_DONTNEED);
}

double MeasureReads(const PieceReader& reader, const std::vector<FileRange>& ranges, int readers,
                    double seconds) {
  using Clock = std::chrono::steady_clock;
  size_t slot_bytes = 0;
  for (const FileRange& range : ranges) slot_bytes = std::max(slot_bytes, PieceReader::ReadBytes(range));
  std::atomic<size_t> next{0};
  std::atomic<size_t> bytes{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const auto read = [&] {
    try {
      const AlignedBuffer<std::byte> memory(slot_bytes + PieceReader::kAlignment);
      auto* const slot = reinterpret_cast<std::byte*>(
          RoundUp(reinterpret_cast<size_t>(memory.data()), PieceReader::kAlignment));
      for (size_t i = next++; i < ranges.size() && elapsed() < seconds; i = next++) {
        reader.Read(ranges[i], slot);
        bytes += PieceReader::ReadBytes(ranges[i]);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  try {
    for (int i = 1; i < readers; ++i) threads.emplace_back(read);
  } catch (const std::system_error&) {
    // Fewer threads measure less.
  }
  read();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  return static_cast<double>(bytes.load()) / elapsed();
}

}  // namespace pygrok
