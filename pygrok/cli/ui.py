"""What the commands print with: numbers for people, text from a model, tables."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygrok.generate import Timings

_KEPT = "\n\t"


def size(count: float) -> str:
    """Bytes in binary units, three digits: 1536 -> '1.50 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} TiB"


def scaled(count: float, unit: str = "") -> str:
    """A count in decimal steps, three digits: 86.2e9 -> '86.2 G'."""
    value = float(count)
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 1000:
            return (
                f"{_three(value)} {prefix}{unit}".rstrip()
                if prefix or value % 1
                else f"{value:.0f} {unit}".rstrip()
            )
        value /= 1000
    return f"{_three(value)} T{unit}"


def _three(value: float) -> str:
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def harmless(text: str) -> str:
    """Text without the control characters with which a model could steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c in _KEPT or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def prepare_streams() -> None:
    """Never fail on a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


class Streamed:
    """Model text on stdout as it comes; remembers whether the line is open."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._terminal = self._stream.isatty()
        self._open = False

    def write(self, text: str) -> None:
        if text:
            self._stream.write(harmless(text) if self._terminal else text)
            self._stream.flush()
            self._open = not text.endswith("\n")

    def end_line(self) -> None:
        """Start a new line unless one was just started."""
        if self._open:
            self.write("\n")


def print_json(value: dict[str, Any]) -> None:
    """One object, non-ASCII as it is."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_pairs(pairs: list[tuple[str, str]], indent: str = "", file: IO[str] | None = None) -> None:
    """Aligned `name  value` lines."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{indent}{name:<{width}}  {value}", file=file)


def print_table(headers: list[str], rows: list[list[str]], left: int = 1) -> None:
    """Columns separated by two spaces; the first `left` ones flush left, the others right."""
    table = [headers, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    for row in table:
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


class Progress:
    """One line on stderr, redrawn at most four times a second; silent unless stderr is a terminal."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if not self._shown or now - self._last < 0.25:
            return
        self._last = now
        rate = done / (now - self._begin)
        left = (self._total - done) / rate if rate else 0.0
        print(
            f"\r\x1b[K{done}/{self._total} {self._unit}  {scaled(rate)}/s  {left:.0f} s left",
            end="",
            file=sys.stderr,
            flush=True,
        )


def speeds(timings: Timings) -> str:
    """`12 prompt tokens at 345 tokens/s, 34 tokens at 5.67 tokens/s`."""
    parts = []
    if timings.prefill_seconds > 0:
        parts.append(
            f"{timings.prompt_tokens} prompt tokens at {scaled(timings.prefill_tokens_per_second)} tokens/s"
        )
    if timings.decode_seconds > 0:
        parts.append(f"{timings.tokens} tokens at {scaled(timings.decode_tokens_per_second)} tokens/s")
    return ", ".join(parts)


def resident() -> dict[str, int]:
    """This process's resident bytes, now and at its peak, from the kernel."""
    wanted = {"RssAnon": "anonymous_bytes", "RssFile": "file_backed_bytes", "VmHWM": "peak_bytes"}
    found: dict[str, int] = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in wanted:
            found[wanted[name]] = int(value.split()[0]) * 1024
    return found
