"""Split sets: sizes, keys, what opens them; and amounts of bytes as the command line takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrok import _core
from pygrok.quantize import convert
from pygrok.quantize.layout import ALIGNMENT, make_layout
from pygrok.quantize.units import format_bytes, parse_size


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source"), **ALIGNED)


@dataclass(frozen=True)
class Fake:
    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@pytest.mark.parametrize("limit", [74_000, 80_000, 150_000, 300_000])
def test_a_set_holds_the_same_tensors_in_parts_of_at_most_the_limit(
    source: Path, tmp_path: Path, limit: int
) -> None:
    whole = convert(source, tmp_path / "whole.gguf", "q4_0", no_tokenizer=True)
    report = convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=limit)
    count = len(report.paths)
    assert count > 1
    assert [path.name for path in report.paths] == [
        f"model-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)
    ]
    sizes = [path.stat().st_size for path in report.paths]
    assert max(sizes) <= limit
    assert sum(sizes) == report.file_bytes
    # Greedy: a part and the first tensor of the next together would be too large.
    first = [gguf.GGUFReader(path).tensors[0].n_bytes for path in report.paths]
    assert all(size + nbytes > limit - 200 for size, nbytes in zip(sizes, first[1:], strict=False))

    one, parts = _core.GgufFile(str(whole.path)), _core.GgufFile(str(report.path))
    assert [t.name for t in one.tensors] == [t.name for t in parts.tensors]
    for tensor in one.tensors:
        np.testing.assert_array_equal(one.data(tensor.name), parts.data(tensor.name))
    assert set(parts.keys()) - set(one.keys()) == {"split.no", "split.count", "split.tensors.count"}
    for i, path in enumerate(report.paths):
        reader = gguf.GGUFReader(path)
        keys = {name: field for name, field in reader.fields.items() if name.startswith("split.")}
        assert {name: field.contents() for name, field in keys.items()} == {
            "split.no": i,
            "split.count": count,
            "split.tensors.count": len(one.tensors),
        }
        assert [field.types[0].name for field in keys.values()] == ["UINT16", "UINT16", "INT32"]
        assert ("general.architecture" in reader.fields) == (i == 0)


def test_one_part_is_the_file_itself(source: Path, tmp_path: Path) -> None:
    whole = convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, dry_run=True)
    report = convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=whole.file_bytes)
    assert report.paths == (tmp_path / "model.gguf",)
    assert not any(key.startswith("split.") for key in _core.GgufFile(str(report.path)).keys())  # noqa: SIM118
    smaller = convert(
        source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=whole.file_bytes - 1, dry_run=True
    )
    assert len(smaller.paths) == 2


def test_what_cannot_be_split_is_told_before_the_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"50\.0 kB cannot hold tensor blk\.0\.ffn_gate_exps\.weight.*or more"
    ) as caught:
        convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=50_000)
    least = int(str(caught.value).split("parts of ")[1].split()[0])
    assert (
        len(convert(source, tmp_path / "model.gguf", no_tokenizer=True, split=least, dry_run=True).paths) > 1
    )
    with pytest.raises(ValueError, match="cannot hold tensor"):
        convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=least - 1)
    with pytest.raises(ValueError, match=r"model: parts need a name that ends in \.gguf"):
        convert(source, tmp_path / "model", "q4_0", no_tokenizer=True, split=80_000)
    assert list(tmp_path.iterdir()) == []


def test_existing_parts_are_refused_then_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model-00002-of-00008.gguf").write_bytes(b"before")
    with pytest.raises(FileExistsError, match=r"exists; --force"):
        convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=80_000)
    report = convert(source, tmp_path / "model.gguf", "q4_0", no_tokenizer=True, split=80_000, force=True)
    assert len(report.paths) == 8
    assert sorted(tmp_path.iterdir()) == list(report.paths)


def test_metadata_may_take_a_part_of_their_own() -> None:
    tensors = [Fake("a", "f32", (1000,), 4000), Fake("b", "f32", (10,), 40)]
    layout = make_layout(
        "m.gguf", tensors, lambda writer: writer.add_string("general.name", "x" * 4000), 4500
    )
    assert [list(part.offsets) for part in layout.parts] == [[], ["a", "b"]]
    assert max(part.nbytes for part in layout.parts) <= 4500
    with pytest.raises(ValueError, match="cannot hold the metadata: split into parts of"):
        make_layout("m.gguf", tensors, lambda writer: writer.add_string("general.name", "x" * 5000), 4500)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(5300, 30_000))
def test_layouts(widths: list[int], split: int) -> None:
    tensors = [Fake(f"t{i}", "q8_0", (width * 32,), width * 34) for i, width in enumerate(widths)]
    tensors = [tensor for tensor in tensors if tensor.nbytes < split - 200] or [Fake("t", "f32", (8,), 32)]

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_string("general.name", "name")

    whole = make_layout("m.gguf", tensors, add_metadata)
    assert whole.nbytes == len(whole.parts[0].header) + sum(
        -(-t.nbytes // ALIGNMENT) * ALIGNMENT for t in tensors
    )
    layout = make_layout("m.gguf", tensors, add_metadata, split)
    assert [name for part in layout.parts for name in part.offsets] == [t.name for t in tensors]
    sizes = {t.name: t.nbytes for t in tensors}
    for part in layout.parts:
        assert part.nbytes <= split
        end = len(part.header)
        for name, offset in part.offsets.items():
            assert offset % ALIGNMENT == 0
            assert offset >= end
            end = offset + sizes[name]
        assert end <= part.nbytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("48G", 48 * 10**9),
        ("48GB", 48 * 10**9),
        ("96GiB", 96 << 30),
        ("96gi", 96 << 30),
        ("1.5 MiB", 3 << 19),
        ("0.1K", 100),
        ("2T", 2 * 10**12),
        ("700 B", 700),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "0", "0.0001K", "1e9", "12 X", "9E", "99999999T", "4 8G", "1G1"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is out of range"):
        parse_size(text)


def test_sizes_as_text() -> None:
    assert [format_bytes(n) for n in (1, 999, 1000, 999_499, 999_500, 48 * 10**9, 2 * 10**12)] == [
        *("1 bytes", "999 bytes", "1.0 kB", "999.5 kB", "1.0 MB", "48.0 GB", "2.00 TB")
    ]
