"""The SIGBUS handler beside others': faults elsewhere still end the process, and find the handlers they had before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Every script gets two paths: a model, and a file for a mapping that is none of pygrok's.
_START = """
import faulthandler, mmap, os, resource, signal, sys
import pygrok
from pygrok import _core
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
path, elsewhere = sys.argv[1:]

def load():
    global model
    model = pygrok.load(path, threads=2)
    model.logits([5, 6, 7])

def fault_elsewhere():
    with open(elsewhere, "wb") as file:
        file.truncate(1 << 20)
    with open(elsewhere, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(elsewhere, 0)
    print("before", flush=True)
    mapped[1 << 19]
    print("after", flush=True)

def fault_in_model():
    os.truncate(path, 8192)
    try:
        model.logits([5, 6, 7])
    except pygrok.FormatError as error:
        print("refused:", error, flush=True)
"""


def run(script: str, model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    copy = shutil.copy(model, folder / "model.gguf")
    # A sanitizer's own report would stand for the death by signal.
    options = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), "handle_sigbus=0")))
    return subprocess.run(
        [sys.executable, "-c", _START + script, copy, folder / "elsewhere"],
        env={**os.environ, "ASAN_OPTIONS": options},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "traceback"),
    [
        ("load(); fault_elsewhere()", False),
        ("faulthandler.enable(); load(); fault_elsewhere()", True),
        ("load(); faulthandler.enable(); fault_elsewhere()", True),
        ("load(); faulthandler.enable(); load(); fault_elsewhere()", True),
        ("faulthandler.enable(); load(); faulthandler.disable(); load(); fault_elsewhere()", False),
        # A handler that mends nothing would be called for ever.
        ("load(); faulthandler.enable(); load(); faulthandler.disable(); fault_elsewhere()", False),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN); load(); fault_elsewhere()", False),
        ("signal.signal(signal.SIGBUS, lambda *_: None); load(); fault_elsewhere()", False),
        ("load(); os.kill(os.getpid(), signal.SIGBUS)", False),
        ("faulthandler.enable(); load(); os.kill(os.getpid(), signal.SIGBUS)", True),
        ("load(); faulthandler.enable(); load(); os.kill(os.getpid(), signal.SIGBUS)", True),
    ],
)
def test_faults_elsewhere_kill(script: str, traceback: bool, tiny_model: Path, tmp_path: Path) -> None:
    done = run(script, tiny_model, tmp_path)
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert "after" not in done.stdout
    assert ("Fatal Python error: Bus error" in done.stderr) == traceback
    if traceback:
        assert 'File "<string>", line' in done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "load(); fault_in_model()",
        "faulthandler.enable(); load(); fault_in_model()",
        "load(); faulthandler.enable(); fault_in_model()",
        "faulthandler.enable(); load(); faulthandler.disable(); fault_in_model()",
        "load(); signal.signal(signal.SIGBUS, signal.SIG_DFL); fault_in_model()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS]); load(); fault_in_model()",
    ],
)
def test_faults_in_a_model_do_not(script: str, tiny_model: Path, tmp_path: Path) -> None:
    done = run(script, tiny_model, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused: ")
    assert "model.gguf: was cut from" in done.stdout


@pytest.mark.parametrize("first", [True, False])
def test_signals_that_are_sent_find_their_handler(first: bool, tiny_model: Path, tmp_path: Path) -> None:
    handle = 'signal.signal(signal.SIGBUS, lambda *_: print("handled", flush=True)); '
    script = (handle + "load(); ") if first else ("load(); " + handle + "load(); ")
    done = run(script + "os.kill(os.getpid(), signal.SIGBUS); fault_in_model()", tiny_model, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("handled\nrefused: ")
    ignored = 'signal.signal(signal.SIGBUS, signal.SIG_IGN); load(); os.kill(os.getpid(), signal.SIGBUS); print("on")'
    assert run(ignored, tiny_model, tmp_path).stdout == "on\n"


def test_forked_child(tiny_model: Path, tmp_path: Path) -> None:
    """The child meets the fault; so does the parent, which has its own view of the file."""
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
load()
file = _core.GgufFile(path)
view = file.data(file.tensors[-1].name)
os.truncate(path, 8192)
child = os.fork()
assert not view.any()
try:
    file.check()
except pygrok.FormatError as error:
    os.write(1, f"{'child' if child == 0 else 'parent'} {error}\\n".encode())
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    done = run(script, tiny_model, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == ["child", "parent"]
