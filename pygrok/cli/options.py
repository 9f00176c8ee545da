"""Options that several commands share, each declared once.

A group is a dataclass whose fields are annotated as typer options; `@with_options` spreads the groups that
a command's function takes over the command line and hands the function filled-in dataclasses.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrok.cli.errors import UsageError, set_debug

if TYPE_CHECKING:
    from pygrok.model import Model
    from pygrok.sampling import SamplingParams

Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=set_debug,
        is_eager=True,
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelFile = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL", help="GGUF file; default: the model in the package.", show_default=False),
]
_PANEL = "Model"
_SAMPLING = "Sampling"
_MEMORY = "Memory"


@dataclass(frozen=True)
class RunOptions:
    """How to run a model."""

    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            help="Threads; default: all that add speed.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            "-c",
            min=1,
            help="Positions that a session may hold; default: the model's.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    kv_type: Annotated[
        str, typer.Option("--kv-type", help="Key/value cache: f32, f16, bf16, q8_0.", rich_help_panel=_PANEL)
    ] = "f16"
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Ceiling for everything, such as 64GiB: weights, cache, buffers. A larger model's experts are then "
            "read as they are needed. Default: what the machine or its control group leaves free.",
            rich_help_panel=_MEMORY,
            show_default=False,
        ),
    ] = None
    isa: Annotated[
        str | None,
        typer.Option(
            "--isa",
            help="Instruction set: scalar, avx2, avx512, ...; default: the best one here.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            help="Precision beside quantized weights: int8, int16, int24; default: int24 for q8_0, else int8, and "
            "bfloat16 for prompts on AMX.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    expert_io: Annotated[
        str,
        typer.Option(
            "--expert-io",
            help="How experts come from the disk: map (the system pages the file in), direct, buffered; auto maps what "
            "fits, else takes the fastest.",
            rich_help_panel=_MEMORY,
        ),
    ] = "auto"
    lookahead: Annotated[
        int | None,
        typer.Option(
            "--lookahead",
            min=0,
            help="Layers for which experts are guessed and fetched ahead; 0: none; default: what pays in general.",
            rich_help_panel=_MEMORY,
            show_default=False,
        ),
    ] = None
    route_slack: Annotated[
        float,
        typer.Option(
            "--route-slack",
            min=0.0,
            help="Where the last of a token's experts is not in memory, take one that is if its probability is at most "
            "this part lower. Changes the results; 0: never.",
            rich_help_panel=_MEMORY,
        ),
    ] = 0.0
    pin_hot: Annotated[
        Path | None,
        typer.Option(
            "--pin-hot",
            metavar="FILE",
            help="Fetch the experts that this profile calls hot before the first token; see 'pygrok experts'.",
            rich_help_panel=_MEMORY,
            show_default=False,
        ),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Write which experts each token is routed to; 'pygrok experts FILE' shows it.",
            rich_help_panel=_MEMORY,
            show_default=False,
        ),
    ] = None
    debug: Debug = False

    @contextmanager
    def opened(self, path: Path | None) -> Iterator[Model]:
        """The model of `load`, whose routing is written if `trace` says so, closed at the end."""
        with ExitStack() as stack:
            model = stack.enter_context(self.load(path))
            if self.trace is not None:
                stack.enter_context(model.trace(self.trace))
            yield model

    def load(self, path: Path | None) -> Model:
        """The model in this file (None: the package's); UsageError for values that it refuses."""
        import pygrok

        try:
            return pygrok.load(
                path,
                threads=self.threads,
                context=self.context,
                kv_type=self.kv_type,
                memory_limit=self.memory,
                isa=self.isa,
                activations=self.activations,
                expert_io=self.expert_io,
                lookahead=self.lookahead,
                route_slack=self.route_slack,
                pin_hot=self.pin_hot,
            )
        except pygrok.PygrokError:
            raise
        except ValueError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. None: as `pygrok.SamplingParams` has it."""

    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", "-T", help="0 always takes the likeliest token.", rich_help_panel=_SAMPLING
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", help="Keep the k likeliest tokens; 0: all.", rich_help_panel=_SAMPLING),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Keep the likeliest tokens up to this sum.", rich_help_panel=_SAMPLING),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p", help="Drop tokens below this share of the likeliest.", rich_help_panel=_SAMPLING
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty", help="Divide scores of seen tokens; 1: off.", rich_help_panel=_SAMPLING
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        typer.Option("--presence-penalty", help="Subtract once from seen tokens.", rich_help_panel=_SAMPLING),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        typer.Option("--frequency-penalty", help="Subtract for each time seen.", rich_help_panel=_SAMPLING),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--seed", help="Same seed, same text.", rich_help_panel=_SAMPLING)
    ] = None

    def params(self) -> SamplingParams:
        """The parameters; a value out of range is a UsageError."""
        from pygrok import SamplingParams

        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        try:
            return SamplingParams(**given)
        except ValueError as error:
            raise UsageError(str(error)) from error


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclass parameters are spread over the command line, in their order."""
    # Not get_type_hints: before Python 3.11 it wraps the annotation of a parameter that defaults to None in Optional.
    hints = inspect.get_annotations(function, eval_str=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if not is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = hints[name]
        members = inspect.get_annotations(hints[name], eval_str=True)
        parameters += [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=members[f.name]
            )
            for f in fields(hints[name])
        ]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        arguments: dict[str, Any] = {
            name: group(**{f.name: values.pop(f.name) for f in fields(group)})
            for name, group in groups.items()
        }
        function(**arguments, **values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    del command.__wrapped__  # typer would look through to the function
    return command
