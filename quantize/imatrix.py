"""Importance matrices: how strongly each input channel of each weight matrix is driven.

The error that rounding leaves in an output is sum_j (w_j - q_j) x_j; for channels that vary independently its mean
square is sum_j (w_j - q_j)^2 E[x_j^2]. E[x_j^2], measured on a text, is the importance that quantizers weight with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import FormatError, ModelError
from pygrok.quantize.imatrix_files import Contents, Entry, read_file, write_file

if TYPE_CHECKING:
    from pygrok import _core
    from pygrok.model import Model

__all__ = ["PRIOR_ROWS", "Coverage", "ImportanceMatrix", "collect"]

PRIOR_ROWS = 4.0
"""Rows that the average over a layer's experts counts for beside those that an expert saw itself; see `importance`."""

_FEW_ROWS = 128  # below this, an expert's own figures are little better than its layer's
_FLOOR = 1e-6  # share of the mean below which no channel falls: some text will drive it
_BATCH_ROWS = 512  # that the engine computes at once


@dataclass(frozen=True)
class Coverage:
    """How many tokens of the text were routed to an expert."""

    layer: int
    expert: int
    tokens: int


class ImportanceMatrix:
    """Sums of squared activations by GGUF tensor name, read from a file or collected; immutable."""

    def __init__(
        self, entries: Mapping[str, Entry], chunk_size: int, datasets: Sequence[str] = (), *, origin: str = ""
    ) -> None:
        """For `load`, `collect` and tests. origin: the file, for messages."""
        self._entries = dict(entries)
        self.chunk_size = chunk_size
        """Tokens that were read in one go, without those before them."""
        self.datasets = tuple(datasets)
        """Names of the texts."""
        self.origin = origin or "the importance matrix"
        """The file it came from, for messages."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImportanceMatrix:
        """Read llama.cpp's GGUF form, or its older .dat form. Raises OSError, FormatError."""
        contents = read_file(path)
        return cls(contents.entries, contents.chunk_size, contents.datasets, origin=os.fspath(path))

    @classmethod
    def from_sums(
        cls, sums: _core.InputSums, chunk_size: int, datasets: Sequence[str] = ()
    ) -> ImportanceMatrix:
        """What `Model.observe` added up. Raises ModelError if a sum is not a finite number."""
        entries = {}
        for names, squares, counts in sums.entries():
            if not np.isfinite(squares).all():
                raise ModelError(
                    f"the activations that enter {names[0]} are not numbers: the model's weights are damaged"
                )
            entries.update(dict.fromkeys(names, Entry(squares, counts.astype(np.float64))))
        return cls(entries, chunk_size, datasets)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the GGUF form, whole or not at all. Raises OSError."""
        write_file(path, Contents(self._entries, self.chunk_size, self.datasets), self.chunks)

    @property
    def names(self) -> list[str]:
        """The weight tensors that it knows, by their GGUF names."""
        return list(self._entries)

    @property
    def tokens(self) -> int:
        """Tokens of the text: the rows of the tensor that saw most."""
        return max((int(entry.counts.max()) for entry in self._entries.values()), default=0)

    @property
    def chunks(self) -> int:
        """Chunks that the tokens make, the last perhaps shorter."""
        return -(-self.tokens // self.chunk_size)

    def matrices(self, name: str) -> int:
        """How many matrices the tensor holds: its experts, or 1. Raises KeyError."""
        return len(self._entries[name].counts)

    def counts(self, name: str) -> NDArray[np.float64]:
        """Rows seen by each matrix of the tensor, [matrices]. Raises KeyError."""
        return np.array(self._entries[name].counts)

    def importance(
        self, tensor_name: str, expert: int | None = None, *, columns: int | None = None
    ) -> NDArray[np.float32] | None:
        """Mean squared activation of each input channel, float32 [columns], all above 0; None if nothing is known.

        tensor_name: the GGUF name, such as "blk.0.ffn_down_exps.weight".
        expert: which matrix of an experts' tensor; None is the average over all.
        columns: what the tensor has, if to be checked.

        An expert e that saw n_e rows gets (sum_e + k * mean) / (n_e + k), where `mean` is that of all rows of the
        layer's experts and k is PRIOR_ROWS: the posterior mean of a variance under a gamma prior worth k
        rows. The mean square of n rows is off by about sqrt(2 / n) of itself, more for heavy tails. Few rows lean
        on the layer's average, which is off by how much experts differ; no rows take it over; many rows stand
        for themselves. docs/imatrix.md has the measurement behind k.

        Raises FormatError if the file does not fit the tensor (too few experts, other columns) or can not be read.
        """
        entry = self._entries.get(tensor_name)
        if entry is None or not entry.counts.any():
            return None
        matrices, width = entry.sums.shape
        if columns is not None and columns != width:
            raise FormatError(
                f"{self.origin}: {tensor_name} has {width} columns, the model's tensor {columns}: "
                "make one from this model"
            )
        if expert is not None and not 0 <= expert < matrices:
            raise FormatError(
                f"{self.origin}: {tensor_name} has {matrices} experts, expert {expert} is asked for: "
                "make one from this model"
            )
        total = entry.sums.sum(axis=0, dtype=np.float64)
        mean = total / entry.counts.sum()
        if expert is not None and matrices > 1:
            mean = (entry.sums[expert] + PRIOR_ROWS * mean) / (entry.counts[expert] + PRIOR_ROWS)
        entry.check()
        average = float(mean.mean())
        if not average > 0:
            return None  # the text never drove it at all
        # A scale without meaning to quantizers keeps extreme files within float32.
        if not 1e-20 < average < 1e20:
            mean /= average
            average = 1.0
        return np.asarray(np.maximum(mean, _FLOOR * average), np.float32)

    def merge(self, other: ImportanceMatrix) -> ImportanceMatrix:
        """The matrix of both texts together. Raises FormatError if they are of different models."""
        entries = dict(self._entries)
        for name, theirs in other._entries.items():
            ours = entries.get(name)
            if ours is None:
                entries[name] = theirs
                continue
            if ours.sums.shape != theirs.sums.shape:
                raise FormatError(
                    f"{other.origin}: {name} has {list(theirs.sums.shape)} sums, expected {list(ours.sums.shape)}: "
                    "it was made from another model"
                )
            entries[name] = Entry(ours.sums.astype(np.float64) + theirs.sums, ours.counts + theirs.counts)
            ours.check()
            theirs.check()
        datasets = dict.fromkeys((*self.datasets, *other.datasets))
        return ImportanceMatrix(entries, self.chunk_size, tuple(datasets))

    def coverage(self) -> list[Coverage]:
        """Tokens that each expert of each layer saw, layer by layer."""
        found = []
        for name, entry in self._entries.items():
            match = re.fullmatch(r"blk\.(\d+)\.ffn_down_exps\.weight", name)
            if match:
                found += [Coverage(int(match[1]), e, int(n)) for e, n in enumerate(entry.counts)]
        return sorted(found, key=lambda c: (c.layer, c.expert))

    def rarely_routed(self) -> list[Coverage]:
        """Experts that saw fewer than 128 tokens."""
        return [c for c in self.coverage() if c.tokens < _FEW_ROWS]


def collect(
    model: Model,
    texts: Iterable[NDArray[np.int32] | Sequence[int]],
    *,
    chunk_size: int = 512,
    datasets: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> ImportanceMatrix:
    """Run a model over token ids and sum up what enters its matrices.

    texts: sequences of ids, each cut into chunks of `chunk_size` (the last may be shorter) that do not see one
        another. progress is called with the tokens done.

    The result depends neither on the number of threads nor on anything but the ids, the model and its options. Raises
    ValueError (no ids, an id outside the vocabulary), ContextOverflow (a chunk beyond the context), ModelError.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be 1 or above")
    sums = model.input_sums()
    at_once = max(1, _BATCH_ROWS // chunk_size)
    waiting: list[NDArray[np.int32] | Sequence[int]] = []
    done = 0

    def run() -> None:
        nonlocal done
        model.observe([(model.session(), ids) for ids in waiting], sums)
        done += sum(len(ids) for ids in waiting)
        waiting.clear()
        if progress is not None:
            progress(done)

    for ids in texts:
        for start in range(0, len(ids), chunk_size):
            waiting.append(ids[start : start + chunk_size])
            if len(waiting) == at_once:
                run()
    if waiting:
        run()
    if not done:
        raise ValueError("the texts have no tokens: at least one is needed")
    return ImportanceMatrix.from_sums(sums, chunk_size, datasets)
