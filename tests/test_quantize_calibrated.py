"""`--calibrate` and `--fit` through the whole conversion: resumed calibrations, sizes kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import ALIGNED, make_checkpoint
from conversion_helpers import StopError, failing_after

from pygrok.errors import ModelError
from pygrok.quantize import convert
from pygrok.quantize.calibration_text import calibration_ids
from pygrok.quantize.cli import main
from pygrok.quantize.source import open_source
from pygrok.tokenizer import Tokenizer

TEXT = "Each may use only what stands below it. The forward pass reads like the paper.\n" * 40
PIECES = 2 + 2 * (9 + 3 * 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source"), vocabulary=400, context=512, **ALIGNED)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def calibrated(
    source: Path, text: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    path = tmp_path_factory.mktemp("calibrated") / "out.gguf"
    report = convert(
        source, path, "q4_0", tokenizer=tiny_tokenizer, calibrate=[text], calibrate_tokens=256, verify=True
    )
    assert report.errors is not None
    errors = {error.name: error.error for error in report.errors}
    assert 0.05 < errors["blk.0.attn_q.weight"] < 0.5
    assert errors["blk.1.ffn_gate_inp.weight"] == 0
    return path.read_bytes()


@pytest.mark.parametrize("pieces", [1, 3, 20, PIECES - 1])
def test_a_calibration_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    text: Path,
    tiny_tokenizer: Path,
    calibrated: bytes,
    tmp_path: Path,
    pieces: int,
) -> None:
    path = tmp_path / "out.gguf"

    def run() -> None:
        convert(
            source,
            path,
            "q4_0",
            tokenizer=tiny_tokenizer,
            calibrate=[text],
            calibrate_tokens=256,
            resume=True,
        )

    with failing_after(monkeypatch, pieces, StopError()), pytest.raises(StopError):
        run()
    other = text.parent / "other.txt"
    other.write_text(TEXT[7:], encoding="utf-8")
    with pytest.raises(ModelError, match="the calibration differs"):
        convert(
            source,
            path,
            "q4_0",
            tokenizer=tiny_tokenizer,
            calibrate=[other],
            calibrate_tokens=256,
            resume=True,
        )
    run()
    assert path.read_bytes() == calibrated
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_taken_from_all_over(source: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    model = open_source(source)
    vocabulary = model.vocabulary(tiny_tokenizer)
    assert vocabulary is not None
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text(TEXT, encoding="utf-8")
    two.write_text("".join(f"Number {i} of the text. " for i in range(20_000)), encoding="utf-8")
    tokenizer = Tokenizer.from_file(tiny_tokenizer)
    chunks = calibration_ids(model, vocabulary, [one, two], 512, 64)
    assert [len(chunk) for chunk in chunks] == [64] * 8
    assert chunks[0].tolist() == tokenizer.encode(TEXT)[:64]
    assert "Number 0 of" in tokenizer.decode(chunks[4].tolist())
    last = tokenizer.decode(chunks[7].tolist())
    assert any(f"Number {i} of" in last for i in range(14_000, 17_000))
    assert sum(len(chunk) for chunk in calibration_ids(model, vocabulary, [one], 100, 64)) <= 100
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty\.txt: no text"):
        calibration_ids(model, vocabulary, [tmp_path / "empty.txt"], 512, 64)
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 at byte 1"):
        calibration_ids(model, vocabulary, [tmp_path / "latin.txt"], 512, 64)


def test_calibration_needs_a_tokenizer(source: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer, without which no text.*; give --tokenizer"):
        convert(source, tmp_path / "out.gguf", "q4_0", calibrate=[text])
    with pytest.raises(ValueError, match="calibrate and no_tokenizer exclude each other"):
        convert(source, tmp_path / "out.gguf", "q4_0", no_tokenizer=True, calibrate=[text])


def test_a_fit_goes_on_with_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    folder.mkdir()

    def run(path: Path, text: Path = text, size: int = 700_000) -> bool:
        """Whether it measured."""
        steps: list[str] = []
        convert(
            tiny_models["f32"],
            path,
            fit=size,
            fit_text=text,
            resume=True,
            preparing=lambda label, *_: steps.append(label),
        )
        return "measuring" in steps

    assert run(tmp_path / "out.gguf")
    path = folder / "out.gguf"
    with failing_after(monkeypatch, 5, StopError()), pytest.raises(StopError):
        run(path)
    assert len(list(folder.iterdir())) == 2
    assert not run(path)
    assert path.read_bytes() == (tmp_path / "out.gguf").read_bytes()
    assert list(folder.iterdir()) == [path]

    path.unlink()
    with pytest.raises(ValueError, match="too small"):
        run(path, size=1000)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8")[7:], encoding="utf-8")
    assert run(path, other)
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("split", [None, "600K"])
def test_a_fit_keeps_its_size(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path, split: str | None
) -> None:
    arguments = [str(source), str(tmp_path / "out.gguf"), "--no-tokenizer", "--json"]
    arguments += [] if split is None else ["--split", split]
    kl = []
    for size in (600_000, 900_000):
        assert (
            main([*arguments, "--force", "--fit", str(size), "--save-plan", str(tmp_path / "plan.json")]) == 0
        )
        result = json.loads(capsys.readouterr().out)
        files = [Path(path).stat().st_size for path in result["paths"]]
        assert sum(files) == result["file_bytes"] <= size
        assert sum(files) > 0.97 * size
        kl.append(result["predicted_kl"])
        types = json.loads((tmp_path / "plan.json").read_text())["tensors"]
        assert types == {tensor["name"]: tensor["type"] for tensor in result["tensors"]}
    assert kl[0] > kl[1] > 0
    assert main([*arguments, "--force", "--fit", "100K"]) == 1
    assert "too small for this model, which takes at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fit", "much"], "--fit: 'much' is not a size"),
        (["--split", "0"], "--split: '0' is out of range"),
        (["--fit-text", "x"], "only about --fit"),
        (["--calibrate-tokens", "9"], "only about --calibrate"),
        (["--calibrate", "x"], "--calibrate and --no-tokenizer exclude each other"),
        (["--tensor", "attn_q"], "expected REGEX=TYPE"),
        (["--tensor", "(=q8_0"], "not a regular expression"),
        (["--fit", "1M", "--type", "q4_k"], "--type and --fit exclude each other"),
        (["--tensor", "attn_q=q9"], "unknown type in --tensor attn_q=q9: 'q9'"),
    ],
)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert main([str(source), str(tmp_path / "out.gguf"), "--no-tokenizer", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tensor", "nothing=q8_0"], "matches none"),
        (["--type", "iq2_xs", "--tensor", "attn=iq2_xs"], "importance matrix"),
    ],
)
def test_wrong_types(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    wide = make_checkpoint(tmp_path / "source", embedding=256, heads=16, kv_heads=4)
    assert main([str(wide), str(tmp_path / "out.gguf"), "--no-tokenizer", *options]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
