"""What cannot be written is refused before the work begins, and nothing that is read is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from pygrok.errors import FormatError, ModelError
from pygrok.quantize.cli import main
from pygrok.quantize.conversion import convert


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("paths"))


@pytest.fixture(scope="module")
def file(source: Path) -> Path:
    return convert(source, source.parent / "q8_0.gguf", "q8_0", no_tokenizer=True).path


def test_outputs_are_different_files(file: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out.gguf", file.read_bytes()
    with pytest.raises(ValueError, match=r"--save-plan .*: is DST, too"):
        convert(file, out, save_plan=out)
    with pytest.raises(ValueError, match=r"--save-plan .*: is read, too"):
        convert(file, out, save_plan=file, force=True, dry_run=True)
    pytest.importorskip("matplotlib", reason="needs matplotlib for --report")
    with pytest.raises(ValueError, match=r"--report .*: is DST, too"):
        convert(file, out, report=tmp_path / "." / "out.gguf")
    with pytest.raises(ValueError, match=r"--save-plan .*: is --report, too"):
        convert(file, out, report=tmp_path / "r", save_plan=tmp_path / "r")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_a_plan_replaces_plans_only(file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    for type_name in ("q4_0", "q5_0"):
        convert(file, tmp_path / "out.gguf", type_name, save_plan=plan, dry_run=True)
        assert json.loads(plan.read_text())["tensors"]["blk.0.attn_q.weight"] == type_name
    plan.write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is no plan"):
        convert(file, tmp_path / "out.gguf", save_plan=plan, dry_run=True)
    assert plan.read_text() == "precious"
    convert(file, tmp_path / "out.gguf", save_plan=plan, dry_run=True, force=True)
    assert plan.read_text() != "precious"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(file, tmp_path / "out.gguf", save_plan=tmp_path / "nowhere" / "plan.json")
    with pytest.raises(IsADirectoryError):
        convert(file, tmp_path / "out.gguf", save_plan=tmp_path)


@pytest.mark.parametrize("name", ["out.gguf", "nowhere/out.gguf", "."])
def test_a_bad_destination_is_told_before_a_fit(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out.gguf").write_bytes(b"old")
    steps: list[str] = []
    with pytest.raises(OSError, match=r"exists; --force|no such directory|is a directory"):
        convert(file, tmp_path / name, fit=1 << 30, preparing=lambda label, *_: steps.append(label))
    assert steps == []
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def test_no_fit_option_is_ignored(source: Path, file: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.gguf"
    text.write_text("some text")
    with pytest.raises(ModelError, match="only a GGUF file can"):
        convert(source, out, no_tokenizer=True, fit=1 << 30, fit_text=text)
    with pytest.raises(FileNotFoundError, match="--fit-text measures and writes it"):
        convert(file, out, fit=1 << 30, sensitivities=tmp_path / "lost.json")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(file, out, fit=1 << 30, fit_text=text, sensitivities=tmp_path / "nowhere" / "s.json")
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 at byte 0"):
        convert(file, out, fit=1 << 30, fit_text=text)
    plan = tmp_path / "plan.json"
    entries = {"blk.0.attn_norm.weight": "q8_0"}
    plan.write_text(json.dumps({"format": "pygrok-plan", "version": 1, "tensors": entries}))
    with pytest.raises(FormatError, match="stays f32"):
        convert(file, out, fit=1 << 30, plan_file=plan)


def test_types_may_be_in_capitals(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    options = ["--type", "Q4_K_M", "--embedding-type", "F16", "--tensor", "attn_q=Q5_0"]
    assert main([str(file), str(tmp_path / "out.gguf"), "--dry-run", "--json", *options]) == 0
    types = {t["name"]: t["type"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert (types["token_embd.weight"], types["blk.0.attn_q.weight"]) == ("f16", "q5_0")
