// Errors that the library throws. The bindings turn each into the Python class of the same name.
#pragma once

#include <stdexcept>
#include <string>

namespace pygrok {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file is not what it should be: names the file, the byte offset or tensor, and the field.
class FormatError : public Error {
 public:
  using Error::Error;
};

// A well-formed file or a request that this engine cannot run.
class ModelError : public Error {
 public:
  using Error::Error;
};

// More positions than the context holds.
class ContextOverflow : public Error {
 public:
  using Error::Error;
};

// The memory limit or the machine's memory would be exceeded.
class MemoryLimit : public Error {
 public:
  using Error::Error;
};

// The call was cancelled from another thread; no session has changed.
class Cancelled : public Error {
 public:
  using Error::Error;
};

// Wrong arguments are std::invalid_argument (ValueError); failed system calls std::system_error (OSError).

}  // namespace pygrok
