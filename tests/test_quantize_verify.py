"""Reading back: the errors are right, damage is found, and nothing damaged is put in place. And the report."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from gguf import GGUFReader
from gguf.quants import dequantize
from source_files import values_of

from pygrok.errors import PygrokError
from pygrok.quantize import convert
from pygrok.quantize.cli import main
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.imatrix_files import Entry
from pygrok.quantize.source import open_source
from pygrok.quantize.verify import VerificationError, limit_of
from pygrok.quantize.writer import OutputFiles


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source"), **ALIGNED)


@pytest.fixture(scope="module")
def imatrix(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, for all but one matrix."""
    rng = np.random.default_rng(3)
    entries = {}
    for tensor in open_source(source).tensors:
        if tensor.kind in ("attention", "expert") and tensor.name != "blk.0.attn_q.weight":
            counts = np.full(len(tensor.matrices), 64.0)
            squares = rng.lognormal(0, 2, (len(counts), tensor.columns)) * 64
            entries[tensor.name] = Entry(squares.astype(np.float32), counts)
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    ImportanceMatrix(entries, 64).save(path)
    return path


def corrupting(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """The bytes that are about to be verified, changed: change(content of the file)."""
    seal = OutputFiles.seal

    def damage(self: OutputFiles) -> None:
        path = self.partial_paths[0]
        content = bytearray(path.read_bytes())
        change(content, path)
        path.write_bytes(content)
        seal(self)

    monkeypatch.setattr(OutputFiles, "seal", damage)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_errors_are_those_of_the_file(source: Path, tmp_path: Path, kind: str) -> None:
    report = convert(source, tmp_path / "out.gguf", kind, no_tokenizer=True, verify=True, split=None)
    assert report.errors is not None
    values = values_of(open_source(source))
    written = {t.name: t for t in GGUFReader(report.path).tensors}
    assert [error.name for error in report.errors] == [tensor.name for tensor in report.plan.tensors]
    for error in report.errors:
        x = values[error.name].astype(np.float64)
        q = dequantize(written[error.name].data, written[error.name].tensor_type).reshape(x.shape)
        expected = np.sqrt(np.sum((x - q) ** 2) / np.sum(x**2))
        assert error.error == pytest.approx(expected, rel=1e-5, abs=1e-12), error.name
        assert error.weighted is None
        assert error.worst >= error.error * (1 - 1e-6)
        assert error.problem is None


def test_weighted_errors(source: Path, imatrix: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "out.gguf", "q4_0", no_tokenizer=True, imatrix=imatrix, verify=True)
    assert any(
        "1 tensor is not in the importance matrix" in n or "2 tensors are not" in n for n in report.notices
    )
    assert report.errors is not None
    errors = {error.name: error for error in report.errors}
    assert errors["blk.0.attn_q.weight"].weighted is None
    importance = ImportanceMatrix.load(imatrix)
    values = values_of(open_source(source))
    written = {t.name: t for t in GGUFReader(report.path).tensors}
    for name in ("blk.0.attn_k.weight", "blk.1.ffn_down_exps.weight"):
        x = values[name].astype(np.float64)
        q = dequantize(written[name].data, written[name].tensor_type).reshape(x.shape)
        experts = range(len(x)) if x.ndim == 3 else [None]
        weights = [importance.importance(name, expert) for expert in experts]
        w = np.stack([weight for weight in weights if weight is not None])[:, None, :].astype(np.float64)
        x, q = x.reshape(len(w), -1, x.shape[-1]), q.reshape(len(w), -1, x.shape[-1])
        expected = np.sqrt(np.sum(w * (x - q) ** 2) / np.sum(w * x**2))
        assert errors[name].weighted == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("where", ["values", "scale", "zeros"])
def test_damage_is_found_and_not_put_in_place(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, where: str
) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"before")
    name = "blk.1.ffn_up_exps.weight"

    def change(content: bytearray, partial: Path) -> None:
        tensor = next(t for t in GGUFReader(partial).tensors if t.name == name)
        start, size = int(tensor.data_offset), int(tensor.n_bytes)
        third = start + size // 4 * 2  # expert 2 of 4
        if where == "values":
            for block in range(third, third + size // 4, 18):
                content[block + 2 : block + 18] = bytes(16 * [0xF0])
        elif where == "scale":
            content[third : third + 2] = b"\x00\x7e"  # NaN as a half
        else:
            content[third : third + size // 4] = bytes(size // 4)

    corrupting(monkeypatch, change)
    with pytest.raises(VerificationError, match=r"not put in place, as 1 of 26 tensors are wrong") as caught:
        convert(source, path, "q4_0", no_tokenizer=True, verify=True, force=True)
    assert f"{name} " in str(caught.value)
    assert "rows 0 to 255 of expert 2" in str(caught.value)
    wrong = [error for error in caught.value.errors if error.problem]
    assert [error.name for error in wrong] == [name]
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_prints_errors_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path
) -> None:
    arguments = [str(source), str(tmp_path / "out.gguf"), "--no-tokenizer", "--verify"]
    assert main(arguments) == 0
    good = capsys.readouterr().out
    assert "worst slice" in good
    assert "wrong" not in good
    line = next(line for line in good.splitlines() if line.startswith("blk.0.attn_q.weight"))
    assert line.split()[1] == "q4_0"
    assert 0.05 < float(line.split()[2]) < 0.12

    def change(content: bytearray, partial: Path) -> None:
        tensor = next(t for t in GGUFReader(partial).tensors if t.name == "output_norm.weight")
        content[int(tensor.data_offset)] ^= 1  # the last bit of an f32: exact, or wrong

    corrupting(monkeypatch, change)
    assert main([*arguments, "--force"]) == 1
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines() if line.endswith("wrong")] == [
        "output_norm.weight"
    ]
    assert captured.err.count("\n") == 1
    assert "f32 should have at most 0" in captured.err


def test_limits_part_sound_from_wrong() -> None:
    assert limit_of("f32") == 0
    assert 0.015 < limit_of("q8_0") < 0.03
    assert 0.2 < limit_of("q4_0") < 0.4
    # The worst that a block scaled by its largest value can hold: one value of full size, all others half a step.
    for kind, largest in (("q8_0", 127), ("q4_0", 8)):
        assert np.sqrt(32 * 0.25 / largest**2) < 1.1 * limit_of(kind)


def test_report(source: Path, imatrix: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'pygrok[report]'")
    path = tmp_path / "report.html"
    arguments = [str(source), str(tmp_path / "out.gguf"), "--no-tokenizer", "--report", str(path)]
    assert main([*arguments, "--imatrix", str(imatrix), "--type", "q4_0"]) == 0
    text = path.read_text(encoding="utf-8")
    assert "pygrok-quantize" in text
    assert f"--report {path}" in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text  # nothing is loaded from anywhere
    for tensor in open_source(source).tensors:
        assert f"<td>{tensor.name}</td>" in text
    assert "bits per weight" in text
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out.gguf", path]
    assert main([*arguments, "--type", "q8_0"]) == 1  # the report exists


def test_report_shows_what_is_wrong(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'pygrok[report]'")

    def change(content: bytearray, partial: Path) -> None:
        tensor = next(t for t in GGUFReader(partial).tensors if t.name == "output_norm.weight")
        content[int(tensor.data_offset) : int(tensor.data_offset) + 4] = b"\x00\x00\xc0\x7f"

    corrupting(monkeypatch, change)
    with pytest.raises(VerificationError, match="NaN"):
        convert(source, tmp_path / "out.gguf", no_tokenizer=True, report=tmp_path / "report.html")
    assert 'class="wrong"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "out.gguf").exists()


def test_report_without_matplotlib_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(PygrokError, match=r"pip install 'pygrok\[report\]'"):
        convert(source, tmp_path / "out.gguf", no_tokenizer=True, report=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
