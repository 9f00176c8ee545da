"""Split sets: PREFIX-00001-of-000NN.gguf."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gguf_files import STRING, U16, Entry, File, Tensor, split_entries

from pygrok._core import GgufFile
from pygrok.errors import FormatError


def shard(number: int, count: int = 3, total: int = 4, names: str | None = None) -> File:
    """Shard `number` from 0: the model's metadata and two tensors in the first, one in each other."""
    entries = split_entries(number, count, total)
    if number == 0:
        entries.insert(0, Entry("general.architecture", STRING, "grok"))
    names = names or ("ab" if number == 0 else "cde"[number - 1])
    return File(entries, [Tensor(name, (4,), 24, name.encode() * 4) for name in names])


def write(folder: Path, shards: dict[int, File], count: int = 3) -> Path:
    """Writes the shards, numbered from 1, and returns the path of the first."""
    for number, file in shards.items():
        (folder / f"model-{number:05}-of-{count:05}.gguf").write_bytes(file.encode())
    return folder / f"model-00001-of-{count:05}.gguf"


GOOD = {1: shard(0), 2: shard(1), 3: shard(2)}


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        GgufFile(str(path))
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_whole_set(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    file = GgufFile(str(path))
    assert file.paths == [str(tmp_path / f"model-0000{i}-of-00003.gguf") for i in (1, 2, 3)]
    assert file.file_bytes == sum(Path(p).stat().st_size for p in file.paths)
    assert file.get("general.architecture") == "grok"
    assert [(t.name, t.shard) for t in file.tensors] == [("a", 0), ("b", 0), ("c", 1), ("d", 2)]
    for tensor in file.tensors:
        assert file.data(tensor.name).tobytes() == tensor.name.encode() * 4
        in_file = np.fromfile(file.paths[tensor.shard], np.uint8, offset=tensor.offset, count=tensor.bytes)
        np.testing.assert_array_equal(file.data(tensor.name), in_file)


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert len(GgufFile("model-00001-of-00003.gguf").tensors) == 4


def test_set_of_one(tmp_path: Path) -> None:
    assert len(GgufFile(str(write(tmp_path, {1: shard(0, 1, 2)}, count=1))).tensors) == 2


@pytest.mark.parametrize("number", [2, 3])
def test_opening_another_shard_names_the_first(tmp_path: Path, number: int) -> None:
    first = write(tmp_path, GOOD)
    path = tmp_path / f"model-0000{number}-of-00003.gguf"
    message = refused(path)
    assert message.startswith(f"{path}: byte 24: ")
    assert f"this is shard {number} of 3: open the first, {first}, instead" in message


@pytest.mark.parametrize("number", [2, 3])
def test_missing_shard(tmp_path: Path, number: int) -> None:
    path = write(tmp_path, {n: file for n, file in GOOD.items() if n != number})
    message = refused(path)
    assert message.startswith(f"{tmp_path}/model-0000{number}-of-00003.gguf: ")
    assert f"shard {number} of 3 of the split model is missing: download it" in message


WRONG = {
    "other count in the name": (GOOD, 2, 1, "split.count", "is 3, must be 2 in shard 1 of 2"),
    "other count in a shard": (
        GOOD | {2: shard(1, 4)},
        3,
        2,
        "split.count",
        "is 4, must be 3 in shard 2 of 3",
    ),
    "shards swapped": (
        GOOD | {2: shard(2), 3: shard(1)},
        3,
        2,
        "split.no",
        "is 2, must be 1 in shard 2 of 3",
    ),
    "foreign shard": (
        GOOD | {3: shard(2, total=9)},
        3,
        3,
        "split.tensors.count",
        "is 9, must be 4 in shard 3",
    ),
    "another as the first": (
        GOOD | {1: shard(1)},
        3,
        1,
        "split.no",
        "is 1, must be 0 in shard 1 of 3: the file belongs to another set: download it again",
    ),
    "not a shard": (GOOD | {2: File(tensors=GOOD[2].tensors)}, 3, 2, "split.count", "is missing, must be 3"),
    "wrong total": (
        {i + 1: shard(i, total=5) for i in range(3)},
        3,
        1,
        "split.tensors.count",
        "is 5, but the 3 shards hold 4 tensors: download the set again",
    ),
    "no total": (
        GOOD | {1: File(GOOD[1].entries[:-1], GOOD[1].tensors)},
        3,
        1,
        "split.tensors.count",
        "is missing",
    ),
    "no keys": (
        {1: File(tensors=GOOD[1].tensors)},
        3,
        1,
        "split.count",
        "is missing, but the file is named as shard 1 of 3",
    ),
    "count of 1": (
        {1: File([Entry("split.count", U16, 1)], GOOD[1].tensors)},
        3,
        1,
        "split.count",
        "is 1, but the file is named as shard 1 of 3",
    ),
    "count a string": (
        {1: File([Entry("split.count", STRING, "3")], [])},
        3,
        1,
        "split.count",
        "is a string, must be an integer",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_set(tmp_path: Path, case: str) -> None:
    shards, count, blamed, key, words = WRONG[case]
    message = refused(write(tmp_path, dict(list(shards.items())), count))
    assert message.startswith(f"{tmp_path}/model-{blamed:05}-of-{count:05}.gguf: ")
    assert f'metadata key "{key}": {words}' in message
    assert words.startswith("is missing") or re.search(r"\.gguf: byte \d+: metadata", message)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD | {3: shard(2, names="a")})
    message = refused(path)
    assert message.startswith(f'{tmp_path}/model-00003-of-00003.gguf: byte 160: tensor "a": occurs twice')
    assert message.endswith(f"of {path}")


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    third = tmp_path / "model-00003-of-00003.gguf"
    third.write_bytes(third.read_bytes()[:-1])
    assert refused(path).startswith(f'{third}: byte 160: tensor "d": data takes 4 bytes')


@pytest.mark.parametrize(
    "name", ["model.gguf", "model-1-of-3.gguf", "model-00001-of-00003.bin", "model-00004-of-00003.gguf"]
)
def test_shard_under_another_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(shard(0).encode())
    message = refused(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: byte ")
    assert "a shard must be named like model-00001-of-00003.gguf" in message
