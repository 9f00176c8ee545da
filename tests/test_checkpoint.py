"""The pickle reader against numpy's own pickles, hostile files, and whole checkpoint directories."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import TOOL, array_bytes, make_checkpoint, quantized_bytes, tensor_path

from pygrok.errors import FormatError, PygrokError
from pygrok.quantize.checkpoint import open_checkpoint
from pygrok.quantize.pickle_objects import StoredArray, StoredTensor
from pygrok.quantize.pickle_reader import read_tensor_file


class QuantizedWeight8bit:
    """Stands for xAI's class when the tests themselves pickle and unpickle."""

    weight: Any
    scales: Any


QuantizedWeight8bit.__module__ = "__main__"
QuantizedWeight8bit.__qualname__ = "QuantizedWeight8bit"


@pytest.fixture(autouse=True)
def _class_in_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "QuantizedWeight8bit", QuantizedWeight8bit, raising=False)


def quantized(shape: tuple[int, ...] = (4, 64, 32), groups: int = 8) -> QuantizedWeight8bit:
    rng = np.random.default_rng(5)
    value = QuantizedWeight8bit()
    value.weight = rng.integers(-127, 128, shape).astype(np.int8)
    value.scales = rng.random((*shape[:-2], groups, shape[-1])).astype(ml_dtypes.bfloat16)
    return value


def payload(path: Path, stored: StoredArray) -> np.ndarray[Any, Any]:
    dtype = {"int8": np.int8, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[stored.dtype]
    return np.memmap(path, dtype, "r", stored.offset, stored.shape)


def read_bytes(tmp_path: Path, content: bytes) -> StoredTensor:
    path = tmp_path / "tensor00000_000"
    path.write_bytes(content)
    return read_tensor_file(path)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("shape", [(4, 64, 32), (128, 600), (2, 8, 1), (5, 16, 1024)])
def test_arrays_are_where_pickle_finds_them(tmp_path: Path, protocol: int, shape: tuple[int, ...]) -> None:
    value = quantized(shape)
    stored = read_bytes(tmp_path, pickle.dumps(value, protocol))
    assert stored.scales is not None
    np.testing.assert_array_equal(payload(stored.path, stored.weight), value.weight)
    np.testing.assert_array_equal(payload(stored.path, stored.scales), value.scales)
    assert (stored.weight.dtype, stored.scales.dtype) == ("int8", "bfloat16")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (300, 80), (3, 5, 7)])
def test_plain_arrays(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    stored = read_bytes(tmp_path, pickle.dumps(value, 4))
    assert stored.scales is None
    np.testing.assert_array_equal(payload(stored.path, stored.weight), value)


def test_made_checkpoints_are_what_pickle_reads(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    checkpoint = open_checkpoint(directory)
    for part in (checkpoint.top, *checkpoint.layers):
        for stored in part.values():
            value = pickle.loads(stored.path.read_bytes())
            weight = value.weight if isinstance(value, QuantizedWeight8bit) else value
            np.testing.assert_array_equal(payload(stored.path, stored.weight), weight)
            if stored.scales is not None:
                np.testing.assert_array_equal(payload(stored.path, stored.scales), value.scales)


def test_writer_makes_the_release_s_bytes(shared: Path) -> None:
    files = sorted((shared / "fixtures").glob("*/ckpt-0/tensor*"))
    assert len(files) == 184
    for path in files:
        value = pickle.loads(path.read_bytes())
        if isinstance(value, QuantizedWeight8bit):
            content = quantized_bytes(value.weight, value.scales.view(np.uint16))
        else:
            content = array_bytes(value)
        assert content == path.read_bytes(), path


def test_expert_file_sizes_are_the_release_s() -> None:
    class Counter:
        size = 0

        def write(self, data: bytes) -> None:
            self.size += len(data)

    class Zeros:
        def __init__(self, n: int) -> None:
            self.n = n

        def __len__(self) -> int:
            return self.n

    for shape, groups, size in (
        ((8, 6144, 32768), 1, 1_611_137_347),
        ((8, 32768, 6144), 8, 1_611_399_491),
    ):
        counter = Counter()
        scales = (8, groups, shape[-1])
        TOOL.save_quantized(
            counter, shape, [Zeros(int(np.prod(shape)))], scales, [Zeros(int(np.prod(scales)) * 2)]
        )
        assert counter.size == size


class Exploit:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_foreign_functions_are_named_and_not_called(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "executed"
    for function, name in (
        (os.system, "posix.system"),
        (eval, "(builtins|__builtin__).eval"),
        (open, "io.open"),
    ):
        argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
        with pytest.raises(FormatError, match=name.replace(".", r"\.")) as caught:
            read_bytes(tmp_path, pickle.dumps(Exploit(function, argument), protocol))
        assert "\n" not in str(caught.value)
    value = quantized()
    value.scales = Exploit(os.system, f"touch {marker}")  # deep inside an honest file
    with pytest.raises(FormatError, match=r"posix\.system"):
        read_bytes(tmp_path, pickle.dumps(value, 4))
    assert not marker.exists()


PROTO = b"\x80\x04"
BOMB = b"()q\x00" + (b"(" + b"h\x00" * 8 + b"tq\x00") * 60 + b"t."  # a tuple of 8**60 values, were it walked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"GGUF" + bytes(60), "not a pickle"),
        (b"\x80\x06.", "protocol 6"),
        (b"\x80\x00.", "protocol 0"),
        (PROTO, "ends"),
        (PROTO + b".", "without a value"),
        (PROTO + b"K\x01.", "neither an array"),
        (PROTO + b"K\x01K\x02.", "left over"),
        (PROTO + b"N.x", "after the end"),
        (PROTO + b"\x95" + struct.pack("<Q", 1 << 63) + b"N.", "frame"),
        (PROTO + b"\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"N.", "18446744073709551615 bytes"),
        (PROTO + b"B" + struct.pack("<I", 1 << 31) + b"N.", "2147483648 bytes"),
        (PROTO + b"X" + struct.pack("<I", 1 << 31) + b"N.", "a text of 2147483648"),
        (PROTO + b"\x8d" + struct.pack("<Q", 1 << 60), "a text of"),
        (PROTO + b"\x8c\x02\xff\xfe.", "UTF-8"),
        (PROTO + b"N" * 300, "at a time"),
        (PROTO + b"(" * 300, "at a time"),
        (PROTO + b"N0" * 6000, "instruction POP"),
        (PROTO + b"Nr\xff\xff\xff\x7f.", "memo entry"),
        (PROTO + b"j\xff\xff\xff\xff.", "never set"),
        (PROTO + b"cos\nsystem\n.", r"os\.system"),
        (PROTO + b"cnumpy\nload\n.", r"numpy\.load"),
        (PROTO + b"c" + b"a" * 500, "without an end"),
        (PROTO + b"\x8c\x00\x8c\x00\x93.", "asks for"),
        (PROTO + b"K\x01K\x02\x93.", r"asks for int\.int"),
        (PROTO + b"Pid\n.", "PERSID"),
        (PROTO + b"\x82\x01.", "EXT1"),
        (PROTO + b"(ios\nsystem\n.", "INST"),
        (PROTO + b"cnumpy\nndarray\nK\x00\x85R.", "call"),
        (PROTO + b"cnumpy\nndarray\n)\x81.", "class"),
        (PROTO + b"N)R.", "not a function"),
        (PROTO + b"NNb.", "has none"),
        (PROTO + b"}K\x01K\x02s.", "not text"),
        (PROTO + b"NK\x01K\x02s.", "not a dictionary"),
        (PROTO + b"t.", "beginning"),
        (PROTO + BOMB, "neither an array"),
    ],
)
def test_hostile_programs(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read_bytes(tmp_path, content)
    assert "tensor00000_000" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 4), np.float64), "'?f8|type f8"),
        (np.zeros((4, 4), np.float16), "type f2"),
        (np.zeros((4, 4), ">f4"), "byte order"),
        (np.zeros(4, object), "type O8|instruction"),
        (np.zeros(4, [("a", "i1")]), "type V1"),
        (np.asfortranarray(np.zeros((4, 5), np.float32)), "Fortran"),
        (np.zeros((0, 4), np.float32), "dimension"),
        (np.zeros((1, 1, 1, 1, 1), np.float32), "1 to 4 dimensions"),
        (np.float32(1), "asks for numpy"),
        ([1, 2], "EMPTY_LIST"),
        ({"weight": 1}, "neither an array"),
    ],
    ids=str,
)
def test_other_honest_values_are_refused(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_bytes(tmp_path, pickle.dumps(value, 4))


def test_declared_shape_must_match_the_bytes(tmp_path: Path) -> None:
    content = array_bytes(np.zeros((300, 300), np.float32))
    shape = b"M" + struct.pack("<H", 300) + b"M" + struct.pack("<H", 300)
    assert content.count(shape) == 1
    for other in (b"M" + struct.pack("<H", 300) + b"M" + struct.pack("<H", 301), b"\x8a\x01\xff" * 2):
        with pytest.raises(FormatError, match=r"360000 bytes for|positive number"):
            read_bytes(tmp_path, content.replace(shape, other))
    huge = b"\x8a\x09" + b"\xff" * 8 + b"\x00"
    with pytest.raises(FormatError, match="larger than any memory"):
        read_bytes(tmp_path, content.replace(shape, huge * 2))


@pytest.mark.parametrize("kind", ["quantized", "plain"])
def test_truncated_and_flipped(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(11)
    value = quantized((2, 16, 8))
    if kind == "quantized":
        content = quantized_bytes(value.weight, value.scales.view(np.uint16))
    else:
        content = array_bytes(rng.standard_normal((12, 9)).astype(np.float32))
    for length in {int(n) for n in np.linspace(0, len(content) - 1, 200)}:
        with pytest.raises(FormatError):
            read_bytes(tmp_path, content[:length])
    refused = 0
    for _ in range(2000):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        try:
            stored = read_bytes(tmp_path, bytes(damaged))
        except PygrokError:
            refused += 1
        else:
            for array in filter(None, (stored.weight, stored.scales)):
                assert 0 < array.offset <= array.offset + array.nbytes <= len(content)
    assert refused > 300  # most flips hit the payload and change a value only


def test_layers_sort_as_strings(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, layers=12)
    checkpoint = open_checkpoint(directory)
    numbers = [int(layer["expert_gate"].path.name[6:11]) for layer in checkpoint.layers]
    order = sorted(range(12), key=str)  # 0 1 10 11 2 ...
    assert numbers == [2 + 12 * order.index(i) for i in range(12)]
    assert numbers[2] == 2 + 12 * 4


def test_missing_and_misnamed_files_are_listed_together(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    tensor_path(directory, 3).unlink()
    tensor_path(directory, 17).rename(directory / "ckpt-0" / "tensor17_000")
    with pytest.raises(FormatError) as caught:
        open_checkpoint(directory)
    for part in ("tensor00003_000", "tensor00017_000", "tensor17_000", "2 of the 26 files"):
        assert part in str(caught.value)


def test_extra_file_asks_for_its_whole_layer(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    tensor_path(directory, 26).write_bytes(tensor_path(directory, 2).read_bytes())
    with pytest.raises(FormatError, match="11 of the 38 files of 3 layers missing"):
        open_checkpoint(directory)


def test_swapped_files_are_all_reported(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    gate, down = tensor_path(directory, 14), tensor_path(directory, 15)
    content = gate.read_bytes()
    gate.write_bytes(down.read_bytes())
    down.write_bytes(content)
    with pytest.raises(FormatError, match=r"tensor00014_000 .*expert_gate.*tensor00015_000 .*expert_down"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("index", "content", "message"),
    [
        (7, quantized_bytes(np.zeros((64, 64), np.int8), np.zeros((3, 64), np.uint16)), "3 groups"),
        (7, quantized_bytes(np.zeros((64, 64), np.int8), np.zeros((1, 32), np.uint16)), r"scales \(1, 32\)"),
        (7, quantized_bytes(np.zeros((64, 64), np.int8), np.zeros((1, 1, 64), np.uint16)), "scales"),
        (9, array_bytes(np.zeros(64, np.uint16)), "attention_norm.*bfloat16"),
        (13, quantized_bytes(np.zeros((64, 4), np.int8), np.zeros((1, 4), np.uint16)), "router.*quantized"),
        (0, array_bytes(np.zeros(64, np.float32)), "not a Grok-1 checkpoint"),
    ],
)
def test_wrong_tensors(tmp_path: Path, index: int, content: bytes, message: str) -> None:
    directory = make_checkpoint(tmp_path)
    tensor_path(directory, index).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_checkpoint(directory)


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="no tensor files"):
        open_checkpoint(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FormatError, match="give the ckpt-0 directory"):
        open_checkpoint(tmp_path / "file")
