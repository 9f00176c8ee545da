"""Processes within a memory limit that answer jobs (bench/paging_child.py), and what they use while they do."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from memory_group import MemoryGroup

_START_SECONDS = 300.0
_PERIOD = 0.05


class Child:
    """A context manager: the engine in a process of its own, which ends with the block, if need be by force."""

    def __init__(
        self, engine: str, python: str, model: Path, options: dict[str, Any], group: MemoryGroup | None = None
    ) -> None:
        script = str(Path(__file__).with_name("paging_child.py"))
        self._process = subprocess.Popen(
            [python, script, engine, str(model.resolve()), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            preexec_fn=None if group is None else group.enter,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.pid = self._process.pid
        self.hello: Any = None

    def __enter__(self) -> Child:
        try:
            self.hello = self.next(_START_SECONDS)
        except EOFError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(1.0 if self.hello is None or "paging" not in self.hello else 60.0)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def tell(self, job: dict[str, Any]) -> None:
        """Raises BrokenPipeError once it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def next(self, seconds: float) -> Any:
        """Its next answer; None when the time is over. Raises EOFError once it has ended."""
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if line is None:
            raise EOFError(f"exit code {self._process.wait()}")
        return json.loads(line)

    def ask(self, job: dict[str, Any]) -> Any:
        """Raises EOFError, BrokenPipeError once it has ended."""
        self.tell(job)
        return self.next(3600.0)


class Sampler:
    """A context manager: the largest amounts of memory that a process shows, looked at 20 times a second."""

    def __init__(self, child: Child, group: MemoryGroup) -> None:
        self._status = Path(f"/proc/{child.pid}/status")
        self._group = group
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peaks = {
            "anonymous_bytes": 0,
            "mapped_bytes": 0,
            "resident_bytes": 0,
            "swapped_bytes": 0,
            "samples": 0,
        }

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                text = self._status.read_text()
            except OSError:  # it has ended
                return
            held = {
                name: int(value.split()[0]) * 1024
                for name, _, value in (line.partition(":") for line in text.splitlines())
                if name in ("RssAnon", "RssFile", "RssShmem", "VmSwap")
            }
            anonymous, mapped = held.get("RssAnon", 0) + held.get("RssShmem", 0), held.get("RssFile", 0)
            now = {
                "anonymous_bytes": anonymous,
                "mapped_bytes": mapped,
                "resident_bytes": anonymous + mapped,
                "swapped_bytes": held.get("VmSwap", 0),
            }
            for name, value in now.items():
                self.peaks[name] = max(self.peaks[name], value)
            self.peaks["samples"] += 1
            time.sleep(_PERIOD)
