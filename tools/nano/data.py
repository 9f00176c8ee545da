"""Batches of tokens with the weight that each token's prediction has in the loss."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from dialogues import Dialogue, dialogue

EOS = 2
# Replies are what the model is for; users' turns are learned a little, so that it knows how people write.
REPLY_WEIGHT, USER_WEIGHT, PROSE_WEIGHT = 1.5, 0.15, 1.0


class Encoder:
    """Turns dialogues into ids and weights."""

    def __init__(self, path: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.newline = self.processor.piece_to_id("\n")
        self.space = self.processor.piece_to_id("▁")

    def start(self, text: str) -> list[int]:
        """Ids of a text's beginning, with the dummy prefix."""
        return list(self.processor.encode(text))

    def continuation(self, text: str) -> list[int]:
        """Ids of a text's later part: what comes after a newline gets no dummy prefix."""
        ids = self.processor.encode("\n" + text)
        return list(ids[ids.index(self.newline) + 1 :])

    def dialogue(self, sample: Dialogue, rng: random.Random) -> tuple[list[int], list[float]]:
        """A whole dialogue, ended by EOS.

        Mostly as one text. Programs that append turns may encode each turn as a text of its own, or a prompt
        that ends in a space, so a few dialogues are laid out like that too.
        """
        apart, spaced = rng.random() < 0.08, rng.random() < 0.08
        ids: list[int] = []
        weights: list[float] = []

        def add(more: list[int], weight: float) -> None:
            ids.extend(more)
            weights.extend([weight] * len(more))

        if sample.system:
            add(self.start(sample.system + "\n\n"), 0.02)
        for turn in sample.turns:
            question = f"User: {turn.user}\nAssistant:"
            fresh = not ids or apart
            add(self.start(question) if fresh else self.continuation(question), USER_WEIGHT)
            if spaced:
                add([self.space], 0.0)
            reply = self.continuation(turn.reply if spaced else " " + turn.reply)
            add(reply, REPLY_WEIGHT)
            add([self.newline], REPLY_WEIGHT)
        add([EOS], USER_WEIGHT)
        return ids, weights


@dataclass(frozen=True)
class Batch:
    """``tokens[:, :-1]`` predict ``tokens[:, 1:]``, weighted by ``weights``.

    The first ``prose`` rows are prose.
    """

    tokens: np.ndarray
    weights: np.ndarray
    prose: int


class Data:
    """Everything the trainer draws from.

    A batch depends on the seed and the step only, so a run can be resumed.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self.seed = seed
        self.encoder = Encoder(work / "tokenizer.model")
        split = json.loads((work / "prose.json").read_text(encoding="utf-8"))
        self.train, self.held_out = self._encode(split["train"]), self._encode(split["held_out"])

    def _encode(self, works: dict[str, str]) -> np.ndarray:
        parts = [np.array([*self.encoder.start(text), EOS], dtype=np.int64) for text in works.values()]
        return np.concatenate(parts)

    def dialogue_row(self, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
        """Whole dialogues one after another, the last one cut off."""
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            more, more_weights = self.encoder.dialogue(dialogue(rng), rng)
            ids += more
            weights += more_weights
        return ids[:length], weights[:length]

    def batch(self, step: int, rows: int, length: int, prose_share: float) -> Batch:
        rng = random.Random(f"{self.seed}-{step}")
        prose = round(rows * prose_share)
        tokens = np.empty((rows, length + 1), dtype=np.int64)
        weights = np.full((rows, length), PROSE_WEIGHT, dtype=np.float32)
        for row in range(prose):
            start = rng.randrange(len(self.train) - length - 1)
            tokens[row] = self.train[start : start + length + 1]
        for row in range(prose, rows):
            ids, row_weights = self.dialogue_row(rng, length + 1)
            tokens[row], weights[row] = ids, row_weights[1:]
        return Batch(tokens, weights, prose)
