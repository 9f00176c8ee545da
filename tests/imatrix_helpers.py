"""What the tests of importance matrices share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pygrok
from pygrok.quantize.imatrix import ImportanceMatrix, collect
from pygrok.quantize.imatrix_files import Entry


def tokens(model: pygrok.Model, count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, model.config.vocab, count).astype(np.int32)


def entry(sums: Any, counts: Any) -> Entry:
    return Entry(np.atleast_2d(np.asarray(sums, np.float32)), np.atleast_1d(np.asarray(counts, np.float64)))


def collect_small(path: Path) -> ImportanceMatrix:
    with pygrok.load(path) as model:
        return collect(model, [tokens(model, 700), tokens(model, 40, 1)], chunk_size=100, datasets=["a", "b"])


def assert_same(a: ImportanceMatrix, b: ImportanceMatrix) -> None:
    assert a.names == b.names
    for name in a.names:
        np.testing.assert_array_equal(a.counts(name), b.counts(name))
        for e in range(a.matrices(name)):
            np.testing.assert_allclose(a.importance(name, e), b.importance(name, e), rtol=1e-6)
