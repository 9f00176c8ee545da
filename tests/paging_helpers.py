"""Engines that page their experts, and a library that makes the disk slow or broken, for tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pygrok import MemoryLimit, _core


def engine(path: Path, **options: Any) -> _core.Engine:
    given: dict[str, Any] = {
        "threads": 2,
        "context": 0,
        "kv_type": "f16",
        "memory_limit": 0,
        "isa": "",
        "activations": "",
        **options,
    }
    return _core.Engine(str(path), **given)


def ids_of(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def least_limit(path: Path, **options: Any) -> int:
    """The smallest memory limit that the engine takes, from its own message."""
    whole = engine(path, **{**options, "expert_io": "auto"})
    scratch = whole.memory_used - path.stat().st_size
    whole.close()
    with pytest.raises(MemoryLimit, match="needs at least") as caught:
        engine(path, memory_limit=scratch + 1000, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    found = re.search(r"needs at least (\d+)", str(caught.value))
    assert found is not None
    return int(found.group(1))


def run(made: _core.Engine, prompt: Sequence[int], more: Sequence[int]) -> list[NDArray[np.float32]]:
    """The logits of a prompt, then of one token after the other."""
    session = made.new_session()
    out = [made.feed([session], [ids_of(*prompt)], "all")[0]]
    return out + [made.feed([session], [ids_of(token)], "last")[0] for token in more]


def assert_same(left: list[NDArray[np.float32]], right: list[NDArray[np.float32]]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


# Reads through a descriptor fail or wait once the file named by PYGROK_TEST_DISK exists: "slow" or "broken".
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>
static int state(void) {
  char word[8] = {0};
  FILE* file = fopen(getenv("PYGROK_TEST_DISK"), "r");
  if (file == NULL) return 0;
  if (fgets(word, sizeof word, file) == NULL) word[0] = 0;
  fclose(file);
  return word[0];
}
static ssize_t act(const char* name, int fd, void* data, size_t bytes, off_t offset) {
  ssize_t (*real)(int, void*, size_t, off_t) = dlsym(RTLD_NEXT, name);
  int now = state();
  if (now == 'b') { errno = EIO; return -1; }
  if (now == 's') sleep(3);
  return real(fd, data, bytes, offset);
}
ssize_t pread(int fd, void* data, size_t bytes, off_t offset) { return act("pread", fd, data, bytes, offset); }
ssize_t pread64(int fd, void* data, size_t bytes, off_t offset) { return act("pread64", fd, data, bytes, offset); }
"""


def disk_shim(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a library that breaks reads")
    source, library = folder / "disk.c", folder / "disk.so"
    source.write_text(SHIM, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
