"""Importance matrices on disk: both formats, and files that are not what they should be."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import gguf_files as g
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imatrix_helpers import assert_same, collect_small
from numpy.typing import NDArray

from pygrok.errors import FormatError
from pygrok.quantize.imatrix import ImportanceMatrix


@pytest.fixture
def collected(tiny_models: dict[str, Path]) -> ImportanceMatrix:
    return collect_small(tiny_models["q8_0"])


def test_round_trip(collected: ImportanceMatrix, tmp_path: Path) -> None:
    collected.save(tmp_path / "a.gguf")
    loaded = ImportanceMatrix.load(tmp_path / "a.gguf")
    assert_same(loaded, collected)
    assert (loaded.datasets, loaded.chunk_size, loaded.tokens) == (("a", "b"), 100, 740)
    loaded.save(tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    loaded.save(tmp_path / "a.gguf")  # over the file that it was read from
    assert_same(loaded, collected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_the_file_is_as_the_format_says(collected: ImportanceMatrix, tmp_path: Path) -> None:
    collected.save(tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert "general.architecture" not in reader.fields
    assert reader.fields["imatrix.datasets"].contents() == ["a", "b"]
    for key, value in (("chunk_count", 8), ("chunk_size", 100)):
        field = reader.fields[f"imatrix.{key}"]
        assert (field.contents(), field.types) == (value, [gguf.GGUFValueType.UINT32])
    tensors = {t.name: t for t in reader.tensors}
    assert len(tensors) == 2 * len(collected.names)
    for name in collected.names:
        sums, counts = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
        assert sums.shape.tolist()[1] == counts.shape.tolist()[1] == collected.matrices(name)
        assert counts.shape.tolist()[0] == 1
        assert sums.tensor_type == counts.tensor_type == gguf.GGMLQuantizationType.F32


def dat_bytes(entries: list[tuple[str, int, NDArray[np.float32]]], tail: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, chunks, values in entries:
        raw = name.encode()
        out += struct.pack("<i", len(raw)) + raw + struct.pack("<ii", chunks, len(values)) + values.tobytes()
    return out + tail


def layer_entries() -> list[tuple[str, int, NDArray[np.float32]]]:
    """One layer: embedding 4, 3 experts of width 2, the second of them never routed; means times 10 chunks."""
    into = np.arange(1, 13, dtype=np.float32) * 10
    into[4:8] = 10
    down = np.array([10, 20, 10, 10, 50, 60], np.float32)
    return [
        ("blk.0.attn_q.weight", 10, np.array([10, 20, 30, 40], np.float32)),
        ("blk.0.ffn_gate_exps.weight", 10, into),
        ("blk.0.ffn_down_exps.weight", 10, down),
    ]


@pytest.mark.parametrize("tail", [b"", struct.pack("<ii", 10, 5) + b"a.txt", struct.pack("<i", 10)])
def test_dat_files(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(dat_bytes(layer_entries(), tail))
    matrix = ImportanceMatrix.load(path)
    np.testing.assert_allclose(matrix.importance("blk.0.attn_q.weight"), [1, 2, 3, 4])
    down = "blk.0.ffn_down_exps.weight"
    assert matrix.counts(down).tolist() == [5120, 0, 5120]
    np.testing.assert_allclose(matrix.importance(down, 2), [5, 6], rtol=1e-2)
    np.testing.assert_allclose(matrix.importance(down, 1), [3, 4], rtol=1e-2)  # the others' average
    assert matrix.datasets == (("a.txt",) if len(tail) > 8 else ())
    matrix.save(tmp_path / "new.gguf")
    assert_same(ImportanceMatrix.load(tmp_path / "new.gguf"), matrix)


def test_dat_without_the_sizes_of_its_layer(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(dat_bytes(layer_entries()[1:]))
    with pytest.raises(FormatError, match=r"old\.dat: cannot tell the experts .* apart"):
        ImportanceMatrix.load(path)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def imatrix_file(**changes: Any) -> g.File:
    """A small matrix with two tensors, changed in one respect."""
    sums, counts = changes.get("sums", f32(1, 2, 3, 4)), changes.get("counts", f32(5, 6))
    tensors = [
        g.Tensor("a.in_sum2", changes.get("shape", (2, 2)), changes.get("type", 0), sums),
        g.Tensor(changes.get("partner", "a.counts"), changes.get("counts_shape", (2, 1)), 0, counts),
        *changes.get("more", []),
    ]
    entries = [
        g.Entry("general.type", g.STRING, changes.get("kind", "imatrix")),
        changes.get("size", g.Entry("imatrix.chunk_size", g.U32, 512)),
    ]
    return g.File(entries=entries, tensors=tensors)


def test_the_small_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    extra = [g.Tensor("a.in_sum", (2, 2), 0, f32(0, 0, 0, 0))]  # a statistic of the future
    path.write_bytes(imatrix_file(more=extra).encode())
    assert ImportanceMatrix.load(path).names == ["a"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "model"}, "not an importance matrix"),
        ({"sums": f32(1, -2, 3, 4)}, "a: its sums are not all numbers"),
        ({"sums": f32(1, NAN, 3, 4)}, "a: its sums are not all numbers"),
        ({"sums": f32(1, INF, 3, 4)}, "a: its sums are not all numbers"),
        ({"counts": f32(1, -1)}, "a: its counts are not all numbers"),
        ({"counts": f32(NAN, 1)}, "a: its counts are not all numbers"),
        ({"counts": f32(0, 1)}, "a: has sums of no rows"),
        ({"counts": f32(1), "counts_shape": (1,)}, "shape .2, 2. but 1 counts"),
        ({"partner": "b.counts"}, "has no partner"),
        ({"type": 24, "sums": bytes(4)}, "a.in_sum2 is i8, not f32"),
        ({"size": g.Entry("imatrix.chunk_size", g.STRING, "x")}, "imatrix.chunk_size is 'x'"),
        ({"size": g.Entry("imatrix.chunk_size", g.I32, -1)}, "imatrix.chunk_size is -1"),
        ({"more": [g.Tensor("a.counts", (2, 1), 0, f32(1, 2))]}, "occurs twice"),
    ],
)
def test_hostile_gguf(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(imatrix_file(**changes).encode())
    with pytest.raises(FormatError, match=message) as caught:
        ImportanceMatrix.load(path)
    assert "bad.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_dat(tmp_path: Path) -> None:
    path = tmp_path / "bad.dat"
    twice = layer_entries()[:1] * 2
    negative = [("a", 1, np.array([-1], np.float32))]
    for data, message in (
        (b"", "ends at byte 0"),
        (struct.pack("<i", 0), "the number of entries at byte 0 is 0"),
        (struct.pack("<ii", 1, 1 << 30), "the name length of entry 0 at byte 4"),
        (dat_bytes(twice), "'blk.0.attn_q.weight' twice"),
        (dat_bytes(negative), "its sums are not all numbers"),
        (dat_bytes([("a", -1, np.ones(1, np.float32))]), "the chunks of a"),
        (struct.pack("<ii", 1, 2) + b"\xff\xfe" + struct.pack("<ii", 1, 1) + f32(1), "is not text"),
    ):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=message):
            ImportanceMatrix.load(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_give_bad_importance(tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([imatrix_file().encode(), dat_bytes(layer_entries())]))
    raw = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    message = ""
    try:
        matrix = ImportanceMatrix.load(path)
    except FormatError as error:
        message = str(error)
    if message:
        assert str(path) in message
        assert "\n" not in message
        return
    for name in matrix.names:
        for e in range(matrix.matrices(name)):
            found = matrix.importance(name, e)
            assert found is None or (np.isfinite(found).all() and (found > 0).all())
