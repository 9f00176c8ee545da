"""`pygrok perplexity`: how well a model predicts a text, and how far it is from another model."""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrok.cli import bench_paging, ui
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import AsJson, RunOptions, with_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pygrok.evaluation import Divergence
    from pygrok.model import Model
    from pygrok.reference_file import Header, ReferenceFile

_COMPARISON = "Comparison with another model"


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
    save_logits: Annotated[
        Path | None,
        typer.Option(
            "--save-logits",
            metavar="FILE",
            help="Write the log-probabilities of every scored token, to compare other models with: two bytes for "
            "each entry of the vocabulary and token, 256 KiB a token for Grok-1.",
            rich_help_panel=_COMPARISON,
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Measure the Kullback-Leibler divergence from the model whose logits were saved in FILE, for the "
            "same text; window, stride and number of tokens are taken from there.",
            rich_help_panel=_COMPARISON,
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite the file of --save-logits.", rich_help_panel=_COMPARISON),
    ] = False,
    as_json: AsJson = False,
    run: RunOptions,
) -> None:
    """Measure the perplexity of a model on a text: exp of the mean of -log p(token given those before it).

    The text is read in overlapping windows, each token is scored once, with at least window - stride tokens
    before it (fewer in the first window). The standard error is that of the mean over tokens, carried
    through exp.

    Example: `pygrok perplexity grok-1-q4_0.gguf wiki.test.txt --window 2048`

    To see what quantization costs, save the logits of the original once and compare each file with them:

    `pygrok perplexity grok-1-bf16.gguf wiki.test.txt -n 2000 --save-logits wiki.logits`

    `pygrok perplexity grok-1-q4_k.gguf wiki.test.txt --against wiki.logits`
    """
    if len(files) > 2:
        raise UsageError(f"{len(files)} files given; expected [MODEL] FILE")
    if save_logits is not None and against is not None:
        raise UsageError("--save-logits and --against exclude each other: run once for each")
    if force and save_logits is None:
        raise UsageError("--force goes with --save-logits")
    from pygrok.evaluation import window_and_stride, windows
    from pygrok.reference_file import Header, ReferenceFile

    reference = None if against is None else ReferenceFile(against)
    if reference is not None:
        held = reference.header
        window, stride, max_tokens = window or held.window, stride or held.stride, max_tokens or held.tokens
    model, file = (files[0] if len(files) == 2 else None), files[-1]
    text = read_text(file)
    with run.opened(model) as loaded:
        ids = loaded.tokenizer.encode(text)[:max_tokens]
        if len(ids) < 2:
            raise ValueError(f"{file}: {len(ids)} tokens; at least 2 are needed")
        if window is not None and window > loaded.context:
            raise UsageError(f"--window {window} exceeds the context of {loaded.context}; raise --context")
        try:
            width, step = window_and_stride(loaded.context, window, stride)
        except ValueError as error:
            raise UsageError(f"--{error}") from error
        begin = time.perf_counter()
        result: dict[str, Any]
        if reference is None and save_logits is None:
            result = _summary(_losses(loaded, ids, width, step))
        else:
            import numpy as np

            array = np.asarray(ids, np.int32)
            header = Header.of(text, array, loaded.config.vocab, width, step)
            if reference is not None:
                reference.check(header)
                result = _compare(loaded, array, reference)
            else:
                assert save_logits is not None
                result = _summary(_saved(loaded, array, header, save_logits, force))
        seconds = time.perf_counter() - begin
    if run.route_slack:
        result["slack"] = bench_paging.slack_divergence(model, run, ids)
    computed = sum(end - start for start, end, _ in windows(len(ids), width, step))
    result |= {"window": width, "stride": step, "seconds": seconds, "tokens_per_second": computed / seconds}
    figures = [*result.values(), *result.get("divergence", {}).values(), *result.get("slack", {}).values()]
    if not all(math.isfinite(v) for v in figures if isinstance(v, int | float)):
        raise ValueError(
            f"the model gives a token of {file} no probability: its weights are damaged or not numbers"
        )
    if as_json:
        ui.print_json(result)
    else:
        _print(result, save_logits)
    sys.stdout.flush()


def _losses(model: Model, ids: list[int], window: int, stride: int) -> NDArray[np.float64]:
    """-log p of ids[1:], without ever making all logits."""
    import numpy as np

    from pygrok.evaluation import windows

    losses = []
    with ui.Progress(len(ids) - 1, "tokens") as progress:
        for start, end, first in windows(len(ids), window, stride):
            scores = np.asarray(model.score(ids[start:end]), np.float64)
            losses.append(-scores[first - start - 1 :])
            progress.show(end - 1)
    return np.concatenate(losses)


def _saved(
    model: Model, ids: NDArray[np.int32], header: Header, path: Path, force: bool
) -> NDArray[np.float64]:
    """-log p of ids[1:]; writes the logits on the way."""
    import numpy as np

    from pygrok.evaluation import logit_rows
    from pygrok.reference_file import ReferenceWriter

    losses = []
    with ExitStack() as stack:
        writer = stack.enter_context(ReferenceWriter(path, header, force=force))
        progress = stack.enter_context(ui.Progress(len(ids) - 1, "tokens"))
        for first, logits in logit_rows(model, ids, window=header.window, stride=header.stride):
            writer.append(logits)
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            chosen = shifted[np.arange(len(logits)), ids[first : first + len(logits)]]
            losses.append(np.log(np.exp(shifted).sum(axis=1)) - chosen)
            progress.show(first - 1 + len(logits))
    return np.concatenate(losses)


def _compare(model: Model, ids: NDArray[np.int32], reference: ReferenceFile) -> dict[str, Any]:
    """The figures of --against."""
    from pygrok.evaluation import kl_divergence

    header = reference.header
    with ui.Progress(len(ids) - 1, "tokens") as progress:
        found = kl_divergence(
            model, ids, reference, window=header.window, stride=header.stride, progress=progress.show
        )
    return {
        "perplexity": found.perplexity,
        "standard_error": found.perplexity_standard_error,
        "mean_log_loss": found.mean_log_loss,
        "tokens": found.tokens,
        "divergence": found.as_dict(),
    }


def _summary(loss: NDArray[np.float64]) -> dict[str, Any]:
    """Perplexity and its error from the losses of all tokens."""
    from pygrok.evaluation import perplexity_of

    value, error = perplexity_of(loss)
    return {
        "perplexity": value,
        "standard_error": error,
        "mean_log_loss": float(loss.mean()),
        "tokens": int(loss.size),
    }


def _print(result: dict[str, Any], saved: Path | None) -> None:
    print(f"perplexity {result['perplexity']:.4f} +/- {result['standard_error']:.4f}")
    if "divergence" in result:
        from pygrok.evaluation import Divergence

        _print_divergence(Divergence(**result["divergence"]))
    print(
        f"{result['tokens']} tokens scored in windows of {result['window']} every {result['stride']}, "
        f"{ui.scaled(result['tokens_per_second'])} tokens/s"
    )
    if "slack" in result:
        print(bench_paging.slack_line(result["slack"]))
    if saved is not None:
        print(f"logits saved in {saved}, {ui.size(saved.stat().st_size)}")


def _print_divergence(d: Divergence) -> None:
    ui.print_pairs(
        [
            (
                "ratio to the reference's",
                f"{d.perplexity_ratio:.5f} +/- {d.perplexity_ratio_standard_error:.5f} "
                f"(its perplexity {d.reference_perplexity:.4f})",
            ),
            ("KL divergence", f"mean {d.mean:.3g} +/- {d.standard_error:.2g} nats, median {d.median:.3g}"),
            (
                "its tail",
                f"90 % {d.percentile_90:.3g}, 95 % {d.percentile_95:.3g}, 99 % {d.percentile_99:.3g}, "
                f"99.9 % {d.percentile_99_9:.3g}, maximum {d.maximum:.3g}",
            ),
            ("same likeliest token", f"{d.top1_agreement:.2%} +/- {d.top1_standard_error:.2%}"),
            (
                "p(right token)",
                f"{d.probability_difference_mean:+.3%} on average, {d.probability_difference_rms:.3%} RMS",
            ),
        ]
    )
