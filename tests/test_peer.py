"""Our files in llama.cpp, and its logits beside ours. Opt-in: `pip install llama-cpp-python`, then `pytest -m peer`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reference_model import mean_kl

import pygrok
from pygrok.quantize import convert
from pygrok.quantize.imatrix import collect
from pygrok.quantize.tensor_types import TYPES

pytestmark = pytest.mark.peer

# In a process of its own: the peer ends the process on what it does not like.
SCRIPT = """
import sys
import numpy as np
import llama_cpp as peer

model_path, prompts_path, out_path = sys.argv[1:]
options = peer.llama_model_default_params()
options.n_gpu_layers = 0
options.use_extra_bufts = False  # its AMX path crashes on some virtual machines
model = peer.llama_model_load_from_file(model_path.encode(), options)
assert model, "the peer does not load the file"
vocab = peer.llama_vocab_n_tokens(peer.llama_model_get_vocab(model))
results = {}
with np.load(prompts_path) as prompts:
    for name, ids in prompts.items():
        options = peer.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 256
        options.type_k = options.type_v = 0  # f32
        context = peer.llama_init_from_model(model, options)
        batch = peer.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = int(token)
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        assert peer.llama_decode(context, batch) == 0
        rows = (peer.llama_get_logits_ith(context, i) for i in range(len(ids)))
        results[name] = np.stack([np.ctypeslib.as_array(row, shape=(vocab,)).copy() for row in rows])
        peer.llama_free(context)
np.savez(out_path, **results)
"""


def peer_logits(model: Path, prompts: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    np.savez(folder / "prompts.npz", **prompts)
    command = [sys.executable, "-c", SCRIPT, str(model), str(folder / "prompts.npz"), str(folder / "out.npz")]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    with np.load(folder / "out.npz") as data:
        return dict(data)


def our_logits(model: Path, prompts: dict[str, np.ndarray], **options: str) -> dict[str, np.ndarray]:
    with pygrok.load(model, kv_type="f32", **options) as loaded:  # type: ignore[arg-type]
        return {name: loaded.logits(ids) for name, ids in prompts.items()}


@pytest.fixture
def prompts(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures" / "grok-a" / "reference.npz") as data:
        return {str(i): data[f"tokens_{i}"] for i in range(4)}


@pytest.fixture
def reference(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures" / "grok-a" / "reference.npz") as data:
        return {str(i): data[f"logits_f32_{i}"] for i in range(4)}


def test_f32_matches(
    converted: Callable[[str, str], Path], prompts: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = converted("grok_a", "f32")
    theirs, ours = peer_logits(path, prompts, tmp_path), our_logits(path, prompts)
    for name in prompts:
        assert mean_kl(ours[name], theirs[name]) < 1e-3


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_every_type_loads(
    converted: Callable[[str, str], Path], prompts: dict[str, np.ndarray], kind: str, tmp_path: Path
) -> None:
    theirs = peer_logits(converted("grok_a", kind), prompts, tmp_path)
    assert all(np.isfinite(logits).all() for logits in theirs.values())


def test_q8_0_is_nearer_to_the_reference_than_the_peer(
    converted: Callable[[str, str], Path],
    prompts: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    # The fixture's random routers turn the peer's int8 activation noise into other experts, so here the two
    # cannot agree; test_trained_model_matches compares them where routing is not a coin toss.
    path = converted("grok_a", "q8_0")
    theirs, ours = peer_logits(path, prompts, tmp_path), our_logits(path, prompts)
    for name, expected in reference.items():
        assert mean_kl(expected, ours[name]) < 1e-5 < mean_kl(expected, theirs[name])


def test_trained_model_matches(tmp_path: Path) -> None:
    path = Path(pygrok.load().path)
    with pygrok.load(path) as model:
        ids = model.tokenizer.encode("User: What is the capital of France?\nAssistant: Paris.\n" * 3)
    prompts = {"0": np.array(ids, np.int32)}
    theirs = peer_logits(path, prompts, tmp_path)
    for activations in ("int8", "int24"):
        ours = our_logits(path, prompts, activations=activations)
        assert mean_kl(ours["0"], theirs["0"]) < 1e-3


@pytest.fixture(scope="module")
def dialogue() -> np.ndarray:
    """What Nano was trained on: elsewhere its router decides by a hair, and any noise changes experts."""
    turns = [
        ("What is the capital of Kenya?", "The capital of Kenya is Nairobi."),
        ("And of Peru?", "The capital of Peru is Lima."),
        ("What is 8 plus 5?", "8 + 5 = 13."),
        ("How do you spell friend?", "Friend is spelled f-r-i-e-n-d."),
        ("What is the opposite of hot?", "The opposite of hot is cold."),
        ("Hello!", "Hello! How can I help you?"),
    ]
    text = "".join(f"User: {question}\nAssistant: {answer}\n" for question, answer in turns)
    with pygrok.load() as model:
        return np.array(model.tokenizer.encode(text), np.int32)


@pytest.fixture(scope="module")
def importance(dialogue: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("importance") / "imatrix.gguf"
    with pygrok.load() as model:
        collect(model, [dialogue]).save(path)
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_every_written_type_gives_the_peer_the_same_model(
    kind: str, dialogue: np.ndarray, importance: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{kind}.gguf"
    convert(pygrok.load().path, path, kind, imatrix=importance)
    prompts = {"0": dialogue}
    theirs = peer_logits(path, prompts, tmp_path)["0"]
    divergence = mean_kl(our_logits(path, prompts)["0"], theirs)
    print(f"{kind}: mean KL {divergence:.2e} over {len(dialogue)} tokens")
    assert divergence < 2e-3
