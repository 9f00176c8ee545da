// What a forked child must not do.
#pragma once

#include <unistd.h>

#include "util/error.h"

namespace pygrok {

// Throws ModelError unless this is the process `pid`: neither threads nor the state of locks survive a fork.
inline void RefuseForked(int pid) {
  if (getpid() == pid) return;
  throw ModelError("this model was loaded before a fork and its threads stayed behind: load it in the child");
}

}  // namespace pygrok
