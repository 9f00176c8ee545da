"""`pygrok-quantize` as a process: exit codes, output, and what is left when it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest
from checkpoints import make_checkpoint, tensor_path

from pygrok.quantize.cli import main


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrok.quantize", *map(str, arguments)]
    # Not from the source tree, whose pygrok has no extension.
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **options)  # type: ignore[call-overload,no-any-return]


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pygrok.quantize", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough (150 MB) that a conversion can be stopped in the middle."""
    return make_checkpoint(
        tmp_path_factory.mktemp("larger"),
        layers=2,
        embedding=768,
        widening=8,
        experts=8,
        heads=8,
        head_size=64,
    )


def test_help_names_every_option() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in (
        "--type",
        "--embedding-type",
        "--config",
        "--tokenizer",
        "--no-tokenizer",
        "--dry-run",
        "--force",
        "--tensor",
        "--plan",
        "--save-plan",
        "--imatrix",
        "--split",
        "--resume",
        "--verify",
        "--report",
        "--allow-requantize",
    ):
        assert option in result.stdout


def test_convert_then_refuse_then_force(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    first = run(checkpoint, path, "--type", "q8_0", "--no-tokenizer")
    assert first.returncode == 0, first.stderr
    assert f"wrote {path}" in first.stdout
    content = path.read_bytes()
    again = run(checkpoint, path, "--type", "q4_0", "--no-tokenizer")
    assert again.returncode == 1
    assert again.stderr == f"pygrok-quantize: error: {path}: exists; --force overwrites it\n"
    assert path.read_bytes() == content
    assert run(checkpoint, path, "--type", "q4_0", "--no-tokenizer", "--force").returncode == 0
    assert path.read_bytes() != content


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["SRC"], 2, "Missing argument"),
        (["SRC", "DST", "--type", "q9"], 2, "unknown type 'q9'; choose a type (f32, f16"),
        (["SRC", "DST", "--threads", "0"], 2, "threads"),
        (["SRC", "DST", "--frobnicate"], 2, "frobnicate"),
        (["SRC", "DST", "--tokenizer", "x", "--no-tokenizer"], 2, "exclude each other"),
        (["nowhere", "DST", "--no-tokenizer"], 1, "nowhere: no such file or directory"),
        (["SRC", "missing/out.gguf", "--no-tokenizer"], 1, "missing: no such directory"),
        (["SRC", ".", "--no-tokenizer"], 1, "is a directory"),
        (["SRC", "DST", "--config", "none.json", "--no-tokenizer"], 1, "none.json: No such file"),
    ],
)
def test_exit_codes(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([{"SRC": str(checkpoint), "DST": "out.gguf"}.get(a, a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--debug", str(checkpoint), str(tmp_path / "missing" / "x.gguf")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_damaged_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_checkpoint(tmp_path)
    path = tensor_path(directory, 4)
    path.write_bytes(path.read_bytes()[:1000])
    assert main([str(directory), str(tmp_path / "x.gguf"), "--no-tokenizer"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert "copy it again" in error
    assert error.count("\n") == 1


def test_dry_run_prints_the_plan_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(checkpoint), str(tmp_path / "out.gguf"), "--no-tokenizer", "--type", "q4_0"]
    assert main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "type", "shape", "size"]
    assert len(lines) == (1 + 26) + (1 + 14) + (1 + 1)  # tensors, parts of the model by type, the sum
    assert lines[28].split() == ["embedding", "q8_0", "1", "tensor", "6.5", "kB"]
    assert "blk.1.ffn_gate_exps.weight" in lines[23]
    assert lines[23].split()[1:] == ["q4_0", "4", "x", "128", "x", "64", "18.4", "kB"]
    assert lines[-1].startswith("would write")
    assert list(tmp_path.iterdir()) == []

    assert main([*arguments, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert plan["tensors"] == report["tensors"]
    assert (plan["dry_run"], report["dry_run"]) == (True, False)
    sizes = {t.name: t.n_bytes for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert {t["name"]: t["bytes"] for t in plan["tensors"]} == sizes
    assert plan["bytes"] == sum(sizes.values())


def start_writing(partial: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """A conversion that holds its lock and has begun to write, even over what an earlier one left."""
    began = time.time()
    process = start(*arguments)
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # what an earlier one left is cleared away
            files = [file.stat() for file in partial.glob("*.gguf")]
            if any(file.st_size > 0 and file.st_mtime > began for file in files):
                break
        time.sleep(0.001)
    return process


def test_killed_conversions_leave_the_destination(larger: Path, tmp_path: Path) -> None:
    path, partial = tmp_path / "out.gguf", tmp_path / ".out.gguf.partial"
    path.write_bytes(b"before")
    rng = random.Random(9)
    stopped = 0
    for i in range(12):
        kind = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[i % 3]
        process = start_writing(partial, larger, path, "--no-tokenizer", "--force", "--threads", "1")
        time.sleep(rng.random() * 0.15)
        process.send_signal(kind)
        code = process.wait(60)
        if path.read_bytes() != b"before":  # it was faster, and must be complete; put the old content back
            assert len(gguf.GGUFReader(path).tensors) == 26
            path.write_bytes(b"before")
            continue
        stopped += 1
        assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[kind]
        assert path.read_bytes() == b"before"
        if kind is not signal.SIGKILL:
            assert sorted(tmp_path.iterdir()) == [path]
    assert stopped >= 3
    assert run(larger, path, "--no-tokenizer", "--force").returncode == 0  # over whatever a kill left behind
    assert sorted(tmp_path.iterdir()) == [path]
    assert len(gguf.GGUFReader(path).tensors) == 26


def test_two_writers_of_one_file(larger: Path, tmp_path: Path) -> None:
    path, partial = tmp_path / "out.gguf", tmp_path / ".out.gguf.partial"
    first = start_writing(partial, larger, path, "--no-tokenizer", "--type", "f32")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = run(larger, path, "--no-tokenizer")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert "another process is writing it" in second.stderr
    assert first.wait(120) == 0
    assert sorted(tmp_path.iterdir()) == [path]


def test_file_size_limit_in_the_middle(larger: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    limit = 20 << 20

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = run(larger, path, "--no-tokenizer", preexec_fn=restrict)
    assert result.returncode == 1
    assert "File too large before all of" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
