"""Train Nano on a CPU within a wall-clock budget; a run that was stopped goes on from its last checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data import Batch, Data
from model import Config, Nano
from optimizer import optimizers
from torch import Tensor
from torch.nn import functional

SAVE_EVERY = 240.0
LOG_EVERY = 20
BALANCE_WEIGHT = 0.01


@dataclass
class Progress:
    """How far a run is. Time counts only while training, so that a stop does not use up the budget."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def rate(share: float) -> float:
    """Learning rate as a share of its peak: short warm-up, a plateau, then a straight line to zero."""
    if share < 0.01:
        return max(share / 0.01, 0.02)
    return min(1.0, (1.0 - share) / 0.65)


def shape(step: int, share: float, rows: int, length: int, context: int) -> tuple[int, int]:
    """Rows and length of a batch.

    Most are short, since attention's cost grows with length. Later some are as long as the context, so that
    the model meets every distance it will see in use.
    """
    if share > 0.35 and step % 16 == 8:
        return 2, context
    if share > 0.2 and step % 16 == 0:
        return 4, context // 2
    return rows, length


def loss_parts(model: Nano, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weighted loss, balancing loss, mean loss on prose, mean loss on replies, and the expert shares."""
    tokens, weights = torch.from_numpy(batch.tokens), torch.from_numpy(batch.weights)
    hidden, balance, shares = model.hidden(tokens[:, :-1])
    losses = token_losses(model, hidden, tokens[:, 1:])
    loss = (losses * weights).sum() / weights.sum()
    with torch.no_grad():
        prose = losses[: batch.prose].mean() if batch.prose else torch.tensor(math.nan)
        replies = losses[batch.prose :][weights[batch.prose :] > 1.0].mean()
    return loss, balance, prose, replies, shares


def token_losses(model: Nano, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = model.logits(hidden)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(
        targets.shape
    )


@torch.no_grad()
def prose_loss(model: Nano, data: Data, rows: int = 32, length: int = 256) -> float:
    """Loss on the first part of the held-out prose: a glance, ``evaluate.py`` measures all of it."""
    tokens = torch.from_numpy(data.held_out[: rows * length + 1])
    hidden, _, _ = model.hidden(tokens[:-1].view(rows, length))
    return float(token_losses(model, hidden, tokens[1:].view(rows, length)).mean())


class Run:
    """A training run and its files: ``checkpoint.pt`` to go on from, ``log.jsonl`` to read."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder: Path = arguments.run
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(arguments.seed)
        self.model = Nano(Config(), torch.bfloat16)
        self.optimizers = optimizers(self.model, arguments.muon_lr, arguments.adam_lr)
        self.progress = Progress()
        self.data = Data(arguments.work, arguments.seed)
        if self.checkpoint.exists():
            self.load()
        if not arguments.eager:
            for layer in self.model.layers:
                layer.compile(dynamic=False)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self.log(event="resumed", **vars(self.progress))

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "config": self.model.config.to_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": vars(self.progress),
        }
        # Written beside and renamed, so that a stop in the middle leaves the last whole one.
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def log(self, **values: Any) -> None:
        line = json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in values.items()})
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def step(self) -> dict[str, Any]:
        """One batch: returns what to log."""
        arguments, progress = self.arguments, self.progress
        share = progress.seconds / arguments.budget
        rows, length = shape(
            progress.step, share, arguments.rows, arguments.length, self.model.config.context
        )
        batch = self.data.batch(progress.step, rows, length, arguments.prose_share)
        loss, balance, prose, replies, shares = loss_parts(self.model, batch)
        (loss + BALANCE_WEIGHT * balance).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise SystemExit(f"step {progress.step}: the gradient is not finite")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += batch.weights.size
        return {
            "step": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds),
            "share": share,
            "loss": loss.item(),
            "prose": prose.item(),
            "replies": replies.item(),
            "balance": balance.item(),
            "norm": norm.item(),
            "length": length,
            "least_share": shares.min().item(),
        }

    def train(self) -> None:
        progress, budget = self.progress, self.arguments.budget
        saved, logged_tokens, logged_seconds = progress.seconds, progress.tokens, progress.seconds
        while progress.seconds < budget:
            began = time.monotonic()
            values = self.step()
            progress.seconds += time.monotonic() - began
            if progress.step % LOG_EVERY == 0:
                speed = (progress.tokens - logged_tokens) / max(progress.seconds - logged_seconds, 1e-9)
                logged_tokens, logged_seconds = progress.tokens, progress.seconds
                self.log(**values, speed=round(speed))
            if progress.seconds - saved > SAVE_EVERY:
                saved = progress.seconds
                self.save()
                self.log(event="saved", step=progress.step, held_out_prose=prose_loss(self.model, self.data))
        self.save()
        self.log(event="done", **vars(progress), held_out_prose=prose_loss(self.model, self.data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/nano"), help="folder with prose.json and tokenizer.model"
    )
    parser.add_argument("--run", type=Path, default=Path("/tmp/nano/run"), help="folder of this run")
    parser.add_argument("--budget", type=float, default=4800, help="seconds of training")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--prose-share", type=float, default=0.22)
    parser.add_argument("--muon-lr", type=float, default=5e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    Run(arguments).train()


if __name__ == "__main__":
    main()
