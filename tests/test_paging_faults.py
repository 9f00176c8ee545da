"""Paging with a disk that fails or hangs, interrupts, forks: errors of one line, promptly, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paging_helpers import disk_shim, engine, ids_of, least_limit

from pygrok import ModelError

PROGRAM = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from paging_helpers import engine, ids_of, run
import numpy as np
import pygrok
path, what, disk = Path(sys.argv[1]), sys.argv[2], Path(os.environ["PYGROK_TEST_DISK"])
expected = run(engine(path), [5, 6, 7], [8])
made = engine(path, memory_limit=int(sys.argv[4]), expert_io="buffered", threads=int(sys.argv[5]))
session = made.new_session()
first = made.feed([session], [ids_of(5, 6, 7)], "all")[0]
np.testing.assert_array_equal(first, expected[0])
made.drop_experts()
disk.write_text("broken" if what == "broken" else "slow")
begin = time.monotonic()
def soon(action):
    threading.Thread(target=lambda: (time.sleep(0.3), action()), daemon=True).start()
if what == "cancel":
    soon(made.cancel)
elif what == "close":
    soon(made.close)
elif what == "interrupt":
    soon(lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    made.feed([session], [ids_of(8)], "last")
except BaseException as error:
    seconds = time.monotonic() - begin
    print(type(error).__name__, str(error).replace("\\n", "|"), sep=": ")
    assert what == "broken" or 0.2 < seconds < 1.5, seconds
else:
    raise SystemExit("no error")
assert session.position == 3
if what != "close":
    disk.unlink()
    np.testing.assert_array_equal(made.feed([session], [ids_of(8)], "last")[0], expected[1])
    made.close()
print("well")
"""

WORDS = {
    "broken": "FormatError: .*part of it could not be read while in use",
    "cancel": "Cancelled: the call was cancelled",
    "close": "Cancelled: the call was cancelled",
    "interrupt": "KeyboardInterrupt",
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk_shim(tmp_path_factory.mktemp("shim"))


@pytest.mark.skipif("PYGROK_SANITIZED" in os.environ, reason="the sanitizers want to be loaded first")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("what", WORDS)
def test_while_it_waits_for_the_disk(
    tiny_models: dict[str, Path], shim: Path, tmp_path: Path, what: str, threads: int
) -> None:
    path = tiny_models["q8_0"]
    limit = least_limit(path, threads=threads) + 100_000
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYGROK_TEST_DISK": str(tmp_path / "disk")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, what, Path(__file__).parent, str(limit), str(threads)],
        env=environment,
        cwd=tmp_path,  # from the tree, -c would import its sources
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    error, last = done.stdout.splitlines()
    assert last == "well"
    assert re.match(WORDS[what], error), error


def test_after_a_fork(tiny_models: dict[str, Path]) -> None:
    path = tiny_models["q8_0"]
    made = engine(path, memory_limit=least_limit(path), expert_io="direct")
    session = made.new_session()
    made.feed([session], [ids_of(5)], "last")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for call in (
                made.paging,
                made.resident_experts,
                made.drop_experts,
                lambda: made.feed([session], [ids_of(6)], "last"),
            ):
                with pytest.raises(ModelError, match="before a fork"):
                    call()
            made.close()
            del session, made
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    made.feed([session], [ids_of(6)], "last")
    made.close()
    with pytest.raises(ModelError, match="closed"):
        made.paging()
    made.close()
