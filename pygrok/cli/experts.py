"""`pygrok experts`: which experts a model uses, and what a cache of any size would find in memory."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrok.cli import ui
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import AsJson, RunOptions, with_options
from pygrok.errors import PygrokError

if TYPE_CHECKING:
    from pygrok.expert_cache import HitCurve
    from pygrok.route_trace import RouteTrace

_WINDOW = 512


@with_options
def experts(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] FILE",
            help="FILE: a trace that --trace wrote, or a UTF-8 text, which MODEL (GGUF; default: the model in the "
            "package) is run on. MODEL beside a trace: its sizes count instead of the traced model's.",
            show_default=False,
        ),
    ],
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens", "-n", min=1, help="Use only so many tokens: a text's first, a trace's last."
        ),
    ] = 4096,
    save_hot: Annotated[
        Path | None,
        typer.Option(
            "--save-hot",
            metavar="FILE",
            help="Write the experts by how often they were used, for --pin-hot of the other commands.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw use and hit rates into a .png, .svg or .pdf (needs matplotlib).",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    run: RunOptions,
) -> None:
    """Show how often each expert is used, and what more memory would buy.

    The hit rates are those of a cache that holds the experts of some size, replayed token by token for all sizes at
    once: keeping the last used ones (lru), those used most with older uses counting less (pygrok, as it does when a
    model exceeds the memory), and with knowledge of the future (best), which nothing can beat. Each expert's first
    use is left out.

    Examples: `pygrok generate grok-1-q4_0.gguf -p "Once upon a time" --trace run.routes`

    `pygrok experts run.routes --save-hot hot.json`

    `pygrok experts grok-1-q4_0.gguf notes.txt --plot use.svg`
    """
    if len(files) > 2:
        raise UsageError(f"{len(files)} files given; expected [MODEL] FILE")
    if plot is not None:
        _check_plot(plot)
    from pygrok.expert_profile import profile_of, save_profile
    from pygrok.route_trace import is_trace, read_trace

    model, file = (files[0] if len(files) == 2 else None), files[-1]
    if str(file) != "-" and is_trace(file):
        trace = read_trace(file)
        if model is not None:
            trace = _sized(trace, model)
    else:
        trace = _traced(model, file, tokens, run)
    trace = last_rows(trace, tokens)
    if not len(trace):
        raise ValueError(f"{file}: no token was routed")
    curves = _curves(trace)
    if save_hot is not None:
        save_profile(save_hot, profile_of(trace))
    from pygrok.cli import experts_output  # numpy comes with it

    if plot is not None:
        from pygrok.cli import experts_plot

        experts_plot.draw(trace, curves, plot)
    if as_json:
        ui.print_json(experts_output.as_dict(trace, curves))
    else:
        experts_output.print_all(trace, curves)


def _check_plot(path: Path) -> None:
    """Before the work. Raises UsageError, PygrokError."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {path}: the name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: no such directory")
    if importlib.util.find_spec("matplotlib") is None:
        raise PygrokError(
            "--plot draws with matplotlib, which is not installed: pip install 'pygrok[report]'"
        )


def last_rows(trace: RouteTrace, count: int) -> RouteTrace:
    """The end of a trace."""
    probabilities = None if trace.probabilities is None else trace.probabilities[-count:]
    return replace(
        trace,
        sessions=trace.sessions[-count:],
        positions=trace.positions[-count:],
        experts=trace.experts[-count:],
        probabilities=probabilities,
    )


def _sized(trace: RouteTrace, model: Path) -> RouteTrace:
    """With the sizes of a model in another quantization."""
    from pygrok._core import GgufFile
    from pygrok.route_trace import header_for

    header = header_for(GgufFile(str(model)))
    traced = trace.header
    if (header.layers, header.experts) != (traced.layers, traced.experts):
        raise ValueError(
            f"{model}: {header.layers} layers of {header.experts} experts; the trace has {traced.layers} of "
            f"{traced.experts}"
        )
    sized = replace(traced, expert_bytes=header.expert_bytes, always_bytes=header.always_bytes)
    return replace(trace, header=sized)


def _traced(model: Path | None, file: Path, tokens: int, run: RunOptions) -> RouteTrace:
    """Where a text's tokens are routed, in windows of 512 or the context."""
    from pygrok.route_trace import read_trace

    if run.trace is None:
        with tempfile.TemporaryDirectory(prefix="pygrok-") as folder:
            return _traced(model, file, tokens, replace(run, trace=Path(folder) / "routes"))
    text = read_text(file)
    with run.opened(model) as loaded:
        ids = loaded.tokenizer.encode(text)[:tokens]
        if not ids:
            raise ValueError(f"{file}: no tokens")
        width = min(_WINDOW, loaded.context)
        with ui.Progress(len(ids), "tokens") as progress:
            for start in range(0, len(ids), width):
                part = ids[start : start + width]
                if len(part) > 1:  # scoring takes every token through all layers
                    loaded.score(part)
                else:
                    loaded.session().feed(part)
                progress.show(start + len(part))
    return read_trace(run.trace)


def _curves(trace: RouteTrace) -> list[HitCurve]:
    from pygrok.expert_cache import POLICIES, hit_curve

    curves: list[HitCurve] = []
    with ui.Progress(len(POLICIES) * len(trace), "tokens replayed") as progress:
        for policy in POLICIES:
            before = len(curves) * len(trace)
            curves.append(hit_curve(trace, policy, progress=lambda n, b=before: progress.show(b + n)))  # type: ignore[misc]
    return curves
