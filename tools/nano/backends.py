"""The two ways to run Nano in a test: PyTorch with a training checkpoint, pygrok with a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from data import EOS, Encoder
from export import load_model
from numpy.typing import NDArray
from torch.nn import functional

Floats = NDArray[np.float32]
MAX_REPLY = 96  # half as many again as the longest reply has


class Backend(Protocol):
    """What a test needs of a model."""

    def encode(self, text: str) -> list[int]: ...

    def replies(self, prompts: list[str], expected: list[str]) -> list[str]:
        """Each prompt's greedy continuation to its end of line; ``expected`` may help to find it faster."""

    def score(self, windows: NDArray[np.int64]) -> Floats:
        """Log-probability of each token of each window but the first."""

    def logits(self, ids: list[int]) -> Floats: ...


class Torch:
    """The PyTorch model in float32."""

    def __init__(self, checkpoint: Path, tokenizer: Path) -> None:
        self.model = load_model(checkpoint)
        self.encoder = Encoder(tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.encoder.start(text)

    @torch.inference_mode()
    def replies(self, prompts: list[str], expected: list[str]) -> list[str]:
        # Greedy decoding gives the expected reply if and only if each of its tokens, the end of line among
        # them, is the most likely one after those before it: one forward pass answers that. Past a first
        # wrong token the text returned is not what decoding would give, but it is wrong either way.
        texts = [
            (self.encode(prompt), [*self.encoder.continuation(" " + reply), self.encoder.newline])
            for prompt, reply in zip(prompts, expected, strict=True)
        ]
        found = [""] * len(texts)
        # Texts of about one length go together; padding stands to the right, where causal attention never
        # sees it.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]) + len(texts[index][1]))
        for begin in range(0, len(order), 32):
            members = order[begin : begin + 32]
            padded = torch.zeros(
                len(members), max(len(texts[m][0]) + len(texts[m][1]) for m in members), dtype=torch.long
            )
            for row, member in enumerate(members):
                ids = texts[member][0] + texts[member][1]
                padded[row, : len(ids)] = torch.tensor(ids)
            hidden, _, _ = self.model.hidden(padded)
            for row, member in enumerate(members):
                start, reply = len(texts[member][0]) - 1, texts[member][1]
                best = self.model.logits(hidden[row, start : start + len(reply)]).argmax(-1).tolist()
                ends = best[-1] in (self.encoder.newline, EOS)
                found[member] = self.encoder.processor.decode(best[:-1]) + ("" if ends else " [goes on]")
        return found

    @torch.inference_mode()
    def score(self, windows: NDArray[np.int64]) -> Floats:
        parts = []
        for window in torch.split(torch.from_numpy(windows), 8):
            losses = functional.cross_entropy(
                self.model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten(), reduction="none"
            )
            parts.append(-losses.view(len(window), -1).numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Floats:
        logits: Floats = self.model(torch.tensor([ids]))[0].numpy()
        return logits

    @torch.inference_mode()
    def expert_shares(self, windows: NDArray[np.int64]) -> list[list[float]]:
        """For each layer, each expert's share of the routed tokens."""
        return [
            [round(share, 4) for share in layer]
            for layer in self.model.hidden(torch.from_numpy(windows))[2].tolist()
        ]


class Pygrok:
    """A GGUF file in pygrok, through its public names only."""

    def __init__(self, path: Path | None, threads: int | None = None, **options: Any) -> None:
        import pygrok  # not needed for training, so not asked for before it is used

        self.pygrok = pygrok
        self.model = pygrok.load(path, threads=threads, **options)

    def encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode(text))

    def replies(self, prompts: list[str], expected: list[str]) -> list[str]:
        greedy = self.pygrok.SamplingParams(temperature=0)
        return [
            self.model.generate(prompt, sampling=greedy, max_tokens=MAX_REPLY, stop=["\n"]).text
            for prompt in prompts
        ]

    def score(self, windows: NDArray[np.int64]) -> Floats:
        return np.stack([self.model.score(window.tolist()) for window in windows])

    def logits(self, ids: list[int]) -> Floats:
        return np.asarray(self.model.logits(ids))
