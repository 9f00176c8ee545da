"""From Hugging Face and GGUF sources to GGUF: xAI's own logits, bytes that stay, the memory bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from source_files import values_of, write_gguf, write_hugging_face

import pygrok
from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize import convert
from pygrok.quantize.source import open_source

TOLERANCE = 2e-3  # as tests/test_parity.py


@pytest.mark.parametrize("name", ["grok-a", "grok-b"])
@pytest.mark.parametrize("spelling", ["xai", "mixtral"])
def test_logits_through_hugging_face_are_the_reference(
    shared: Path, tmp_path: Path, name: str, spelling: str
) -> None:
    release = open_source(shared / "fixtures" / name)
    folder = write_hugging_face(
        tmp_path / "hf", values_of(release), release.hyperparameters(), spelling=spelling, shards=2
    )
    convert(folder, tmp_path / "a.gguf", type="f32", no_tokenizer=True)
    with (
        np.load(shared / "fixtures" / name / "reference.npz") as reference,
        pygrok.load(tmp_path / "a.gguf", kv_type="f32") as model,
    ):
        for i in range(4):
            logits = model.logits(reference[f"tokens_{i}"])
            np.testing.assert_allclose(logits, reference[f"logits_f32_{i}"], rtol=0, atol=TOLERANCE)


def payload(path: Path) -> dict[str, bytes]:
    file = _core.GgufFile(str(path))
    return {tensor.name: file.data(tensor.name).tobytes() for tensor in file.tensors}


@pytest.mark.parametrize(("type", "dtype"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_bytes_stay(tmp_path: Path, type: str, dtype: str) -> None:
    """From Hugging Face, from GGUF and from xAI's checkpoint: the same file, and nothing is rounded twice."""
    source = open_source(make_checkpoint(tmp_path / "xai", **ALIGNED))
    values, model = values_of(source), source.hyperparameters()
    write_hugging_face(tmp_path / "hf", values, model, dtype=dtype)
    convert(tmp_path / "xai", tmp_path / "xai.gguf", type=type)
    convert(tmp_path / "hf", tmp_path / "hf.gguf", type=type)
    convert(tmp_path / "xai.gguf", tmp_path / "again.gguf", type=type)
    expected, through = payload(tmp_path / "xai.gguf"), payload(tmp_path / "hf.gguf")
    assert payload(tmp_path / "again.gguf") == expected
    # Norms and router, f32 in the checkpoint, are rounded in the folder.
    rounded = {name for name in expected if type != "f32" and ("norm" in name or "gate_inp" in name)}
    assert {n: b for n, b in through.items() if n not in rounded} == {
        n: b for n, b in expected.items() if n not in rounded
    }


def test_q8_0_stays_the_release(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "xai", **ALIGNED)
    convert(tmp_path / "xai", tmp_path / "a.gguf", type="q8_0")
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf", type="q8_0")
    assert payload(tmp_path / "b.gguf") == payload(tmp_path / "a.gguf")


def test_requantizing_needs_a_word(tmp_path: Path) -> None:
    source = open_source(make_checkpoint(tmp_path / "xai", **ALIGNED))
    write_gguf(tmp_path / "a.gguf", values_of(source), source.hyperparameters(), type="q4_0")
    with pytest.raises(ModelError, match="quantized already") as caught:
        convert(tmp_path / "a.gguf", tmp_path / "b.gguf", type="q4_0", embedding_type="q8_0")
    assert "\n" not in str(caught.value)
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf", type="q8_0", allow_requantize=True)
    assert len(payload(tmp_path / "b.gguf")) == 26


MEASURE = """
import sys
from pathlib import Path
from pygrok.quantize import convert

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10

before = peak = anonymous()
def progress(done, total):
    global peak
    peak = max(peak, anonymous())
convert(sys.argv[1], sys.argv[2], type=sys.argv[3], no_tokenizer=True, threads=2, progress=progress)
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see anonymous memory")
@pytest.mark.parametrize("kind", ["hugging-face", "gguf"])
def test_no_copy_of_the_model_in_memory(tmp_path: Path, kind: str) -> None:
    sizes = {"embedding": 768, "widening": 6, "experts": 8}
    source = open_source(make_checkpoint(tmp_path / "xai", layers=1, **{**ALIGNED, **sizes}))
    values, model = values_of(source), source.hyperparameters()
    if kind == "gguf":
        path = write_gguf(tmp_path / "a.gguf", values, model)
    else:
        path = write_hugging_face(tmp_path / "hf", values, model, shards=2)
    assert open_source(path).source_bytes > 200 << 20
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out.gguf"), "q8_0"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,  # not the tree, whose pygrok/ has no extension
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 80 << 20
