"""What a machine could do at best with a model, measured beside what it does: its speed drifts when others share it."""

from __future__ import annotations

from pathlib import Path

from pygrok import _core
from pygrok.footprint import Footprint

__all__ = ["Limits"]

_BANDWIDTH_BYTES = 1 << 30
_DOT_SECONDS = 0.2


class Limits:
    """The two limits of a model on this machine: decode waits for memory, prefill for dot products."""

    def __init__(self, described: Footprint, threads: int, isa: str, *, experts: bool = True) -> None:
        """experts: whether they may be mapped in; where they are streamed, that would take the memory of others."""
        self._described = described
        tensors = [t for t in described.tensors if experts or ".ffn_" not in t.name]
        largest = max(tensors, key=lambda tensor: tensor.bytes)
        self._path = described.paths[largest.shard]
        size = Path(self._path).stat().st_size
        # From the largest tensor on, as far as the file goes.
        self._length = min(size, _BANDWIDTH_BYTES) if experts else largest.bytes
        self._offset = max(0, min(largest.offset, size - self._length))
        self._threads, self._isa = threads, isa

    def read_rate(self) -> float:
        """Bytes/s at which the same threads merely read the mapped file."""
        return _core.read_bandwidth(self._path, self._offset, self._length, self._threads)

    def dot_rate(self, isa: str | None = None) -> float:
        """Operations/s (two for each multiply-add) of an instruction set's dot product in registers.

        Of int8, with avx512_amx of bfloat16.
        """
        return _core.dot_rate(self._threads, isa or self._isa, _DOT_SECONDS)

    def decode_bytes(self) -> int:
        """Bytes of weights that decoding one token reads."""
        return self._described.active_bytes

    def prefill_operations(self, tokens: int) -> int:
        """Operations of a prompt, whose last token alone passes the end of the last layer."""
        return 2 * (self._described.prompt_values * tokens + self._described.last_values)
