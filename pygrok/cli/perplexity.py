"""`pygrok perplexity`: how well a model predicts a text."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pygrok.cli import ui
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import AsJson, RunOptions, with_options


def windows(count: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first) for each window of `count` tokens: those from `first` on are new and get scored.

    Every token but the very first is scored exactly once; after the first window each scored token has at
    least `window - stride` tokens before it.
    """
    scored = 1
    start = 0
    while scored < count:
        end = min(start + window, count)
        yield start, end, scored
        scored = end
        start += stride


@with_options
def perplexity(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] FILE",
            help="GGUF file (default: the model in the package) and text file, UTF-8.",
            show_default=False,
        ),
    ],
    window: Annotated[
        int | None,
        typer.Option(
            "--window", "-w", min=2, help="Tokens per window; default: 512 or the context, if smaller."
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride", "-s", min=1, help="Tokens from one window to the next; default: half a window."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=2, help="Use only this many tokens of the text.")
    ] = None,
    as_json: AsJson = False,
    run: RunOptions,
) -> None:
    """Measure the perplexity of a model on a text: exp of the mean of -log p(token given those before it).

    The text is read in overlapping windows, each token is scored once, with at least window - stride tokens
    before it (fewer in the first window). The standard error is that of the mean over tokens, carried
    through exp.

    Example: `pygrok perplexity grok-1-q4_0.gguf wiki.test.txt --window 2048`
    """
    import numpy as np

    if len(files) > 2:
        raise UsageError(f"{len(files)} files given; expected [MODEL] FILE")
    model, file = (files[0] if len(files) == 2 else None), files[-1]
    text = read_text(file)
    with run.load(model) as loaded:
        ids = loaded.tokenizer.encode(text)[:max_tokens]
        if len(ids) < 2:
            raise ValueError(f"{file}: {len(ids)} tokens; at least 2 are needed")
        context = loaded.context
        width = min(512, context) if window is None else window
        if width > context:
            raise UsageError(f"--window {width} exceeds the context of {context}; raise --context")
        step = max(1, width // 2) if stride is None else stride
        if step >= width:
            raise UsageError(
                f"--stride {step} must be below the window of {width}, or tokens would go unscored"
            )

        losses: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
        computed = 0
        begin = time.perf_counter()
        with ui.Progress(len(ids) - 1, "tokens") as progress:
            for start, end, first in windows(len(ids), width, step):
                scores = np.asarray(loaded.score(ids[start:end]), np.float64)
                losses.append(-scores[first - start - 1 :])
                computed += end - start
                progress.show(end - 1)
        seconds = time.perf_counter() - begin

    loss = np.concatenate(losses)
    mean = float(loss.mean())
    value = math.exp(mean) if mean < 700 else math.inf  # beyond what a float holds
    error_of_mean = float(loss.std(ddof=1)) / math.sqrt(loss.size) if loss.size > 1 else 0.0
    result = {
        "perplexity": value,
        "standard_error": value * error_of_mean,
        "mean_log_loss": mean,
        "tokens": int(loss.size),
        "window": width,
        "stride": step,
        "seconds": seconds,
        "tokens_per_second": computed / seconds,
    }
    if not all(math.isfinite(v) for v in result.values()):
        raise ValueError(
            f"the model gives a token of {file} no probability: its weights are damaged or not numbers"
        )
    if as_json:
        ui.print_json(result)
        return
    print(f"perplexity {value:.4f} +/- {value * error_of_mean:.4f}")
    print(
        f"{loss.size} tokens scored in windows of {width} every {step}, "
        f"{ui.scaled(computed / seconds)} tokens/s"
    )
    sys.stdout.flush()
