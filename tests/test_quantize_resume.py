"""Conversions that are stopped and gone on with: the same bytes, whatever happened in between."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoints import ALIGNED, make_checkpoint
from conversion_helpers import StopError, failing_after
from hypothesis import given
from hypothesis import strategies as st

from pygrok.errors import ModelError
from pygrok.quantize import ConversionReport, convert
from pygrok.quantize.journal import Journal
from pygrok.quantize.writer import OutputFiles

PIECES = 2 + 2 * (9 + 3 * 4)
SPLIT = 250_000  # three parts

# Slow enough to be killed anywhere: within a piece, between its bytes and its line in the journal, between two.
SLOW = """
import sys, time
from pygrok.quantize import convert
from pygrok.quantize.writer import OutputFiles

write, end = OutputFiles.write, OutputFiles.end_piece

def slow_write(self, *arguments):
    print("writing", flush=True)
    time.sleep(0.004)
    write(self, *arguments)
    time.sleep(0.004)

def slow_end(self, piece):
    end(self, piece)
    time.sleep(0.004)

OutputFiles.write, OutputFiles.end_piece = slow_write, slow_end
report = convert(sys.argv[1], sys.argv[2], "q4_0", no_tokenizer=True, split=int(sys.argv[3]), resume=True)
print("resumed", report.resumed_bytes)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source"), **ALIGNED)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted conversion writes."""
    path = tmp_path_factory.mktemp("whole") / "out.gguf"
    convert(source, path, "q4_0", no_tokenizer=True)
    return path.read_bytes()


def stop_after(
    monkeypatch: pytest.MonkeyPatch,
    pieces: int,
    error: BaseException,
    source: Path,
    path: Path,
    **options: Any,
) -> None:
    """A conversion that fails when so many matrices are finished."""
    with failing_after(monkeypatch, pieces, error), pytest.raises(type(error)):
        convert(source, path, "q4_0", no_tokenizer=True, **options)


def resume(
    monkeypatch: pytest.MonkeyPatch, source: Path, path: Path, **options: Any
) -> tuple[int, ConversionReport]:
    """How many matrices were converted, and the report."""
    end, done = OutputFiles.end_piece, []

    def counting(self: OutputFiles, piece: tuple[str, int]) -> None:
        done.append(piece)
        end(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(OutputFiles, "end_piece", counting)
        report = convert(source, path, "q4_0", no_tokenizer=True, resume=True, **options)
    assert len(set(done)) == len(done)
    return len(done), report


def test_twenty_kills_during_one_conversion(tmp_path: Path) -> None:
    split = 80_000
    source = make_checkpoint(tmp_path / "source", layers=5, **ALIGNED)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    report = convert(source, tmp_path / "whole" / "out.gguf", "q4_0", no_tokenizer=True, split=split)
    assert len(report.paths) > 3
    command = [sys.executable, "-c", SLOW, str(source), str(tmp_path / "killed" / "out.gguf"), str(split)]
    rng = random.Random(4)
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        time.sleep(rng.random() * 0.04)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -9
        assert [path.name for path in (tmp_path / "killed").iterdir()] == [".out.gguf.partial"]
    last = subprocess.run(command, capture_output=True, cwd="/", check=True, timeout=60)
    assert 0 < int(last.stdout.split()[-1]) < report.source_bytes
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert names == [path.name for path in report.paths]
    for path in report.paths:
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("pieces", [0, 1, 5, 30, PIECES - 1])
def test_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, source: Path, whole: bytes, tmp_path: Path, pieces: int
) -> None:
    path = tmp_path / "out.gguf"
    stop_after(monkeypatch, pieces, KeyboardInterrupt(), source, path, resume=True)
    assert path.exists() is False
    assert bool(list(tmp_path.iterdir())) == (pieces > 0)
    done, report = resume(monkeypatch, source, path)
    assert done == PIECES - pieces
    assert (report.resumed_bytes > 0) == (pieces > 0)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_without_resume_nothing_is_left_or_taken_over(
    monkeypatch: pytest.MonkeyPatch, source: Path, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "out.gguf"
    stop_after(monkeypatch, 9, StopError(), source, path)
    assert list(tmp_path.iterdir()) == []
    stop_after(monkeypatch, 9, StopError(), source, path, resume=True)
    said: list[str] = []
    report = convert(source, path, "q4_0", no_tokenizer=True, notify=said.append)
    assert said == [
        "an unfinished conversion was found and is thrown away; --resume would have gone on with it"
    ]
    assert report.notices == tuple(said)
    assert report.resumed_bytes == 0
    assert path.read_bytes() == whole


def test_full_disk_keeps_what_is_finished(
    monkeypatch: pytest.MonkeyPatch, source: Path, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"before")
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        failing_after(monkeypatch, 19, full),
        pytest.raises(OSError, match="what is finished is kept: free space"),
    ):
        convert(source, path, "q4_0", no_tokenizer=True, force=True, resume=True)
    assert path.read_bytes() == b"before"
    with pytest.raises(FileExistsError, match="--force"):
        convert(source, path, "q4_0", no_tokenizer=True, resume=True)
    done, _ = resume(monkeypatch, source, path, force=True)
    assert done == PIECES - 19
    assert path.read_bytes() == whole


def test_damage_is_found_and_mended(
    monkeypatch: pytest.MonkeyPatch, source: Path, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "out.gguf"
    stop_after(monkeypatch, 30, StopError(), source, path, resume=True)
    partial = tmp_path / ".out.gguf.partial" / "out.gguf"
    content = bytearray(partial.read_bytes())
    first = len(content) // 2
    content[first] ^= 1
    partial.write_bytes(content)
    journal = tmp_path / ".out.gguf.partial" / "journal"
    journal.write_bytes(journal.read_bytes() + b'{"tensor": "blk.0.')  # a line cut by a power failure
    said: list[str] = []
    done, _ = resume(monkeypatch, source, path, notify=said.append)
    assert done == PIECES - 29
    assert len(said) == 1
    assert "damaged or incomplete, and done again" in said[0]
    assert path.read_bytes() == whole


def test_a_partial_file_that_lost_its_end(
    monkeypatch: pytest.MonkeyPatch, source: Path, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "out.gguf"
    stop_after(monkeypatch, 30, StopError(), source, path, resume=True)
    os.truncate(tmp_path / ".out.gguf.partial" / "out.gguf", 20_000)
    done, _ = resume(monkeypatch, source, path)
    assert PIECES - 30 < done < PIECES
    assert path.read_bytes() == whole


def test_another_conversion_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, path = make_checkpoint(tmp_path / "source", **ALIGNED), tmp_path / "out.gguf"
    stop_after(monkeypatch, 9, StopError(), source, path, resume=True)
    folder = tmp_path / ".out.gguf.partial"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "q8_0"}, r"the plan of types differs; the type was q4_0, now q8_0"),
        ({"split": 80_000}, r"the split was not given, now 80000"),
        ({"tensor_types": [("attn_q", "q8_0")]}, r"the plan of types differs\)"),
    ]
    for options, message in cases:
        with pytest.raises(ModelError, match=message) as caught:
            convert(source, path, no_tokenizer=True, resume=True, **options)
        assert "--resume" in str(caught.value)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    os.utime(source / "ckpt-0" / "tensor00003_000")
    with pytest.raises(ModelError, match=r"\(the source differs\)"):
        convert(source, path, no_tokenizer=True, resume=True)
    said: list[str] = []
    convert(source, path, "q8_0", no_tokenizer=True, notify=said.append)
    assert said == ["an unfinished conversion with other options was found and is thrown away"]


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_stopped_among_the_last_renames(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, renames: int
) -> None:
    (tmp_path / "whole").mkdir()
    folder = tmp_path / "stopped"
    folder.mkdir()
    expected = convert(source, tmp_path / "whole" / "out.gguf", no_tokenizer=True, split=SPLIT)
    assert len(expected.paths) == 3
    replace, count = Path.replace, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal count
        if count == renames:
            raise StopError
        count += 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        if renames < 3:
            with pytest.raises(StopError):
                convert(source, folder / "out.gguf", no_tokenizer=True, split=SPLIT, resume=True)
            assert not (folder / expected.path.name).exists()  # without it, nothing can be opened
    done, _ = resume(monkeypatch, source, folder / "out.gguf", split=SPLIT)
    assert done == (0 if renames < 3 else PIECES)
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in expected.paths]
    for path in expected.paths:
        assert (folder / path.name).read_bytes() == path.read_bytes()


@given(
    st.binary(max_size=300) | st.text(alphabet='{}[]",:\n 0123456789tensormatixcr32placingfh').map(str.encode)
)
def test_a_journal_of_anything_is_read(content: bytes) -> None:
    import io

    found = Journal(io.BytesIO(content)).read()
    assert not found.checksums or found.fingerprint is not None
    assert found.nbytes <= len(content)
