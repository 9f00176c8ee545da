"""The options of `pygrok-quantize`, in the groups that its help shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pygrok.cli.errors import UsageError
from pygrok.cli.options import Debug
from pygrok.quantize.units import parse_size

__all__ = ["OutputOptions", "RunOptions", "SourceOptions", "TypeOptions"]

_TYPES = "What each tensor becomes"
_OUTPUT = "What is written"
_SOURCE = "What is read"
_RUN = "How it runs"


def _option(*names: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


def _size(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


@dataclass(frozen=True)
class TypeOptions:
    """Which types, and how well they are rounded to."""

    type: Annotated[
        str | None,
        _option(
            "--type",
            panel=_TYPES,
            help="A type for all weights (f32 f16 bf16 q8_0 q6_k q5_k q4_k q3_k q2_k q5_1 q5_0 q4_1 q4_0 iq4_nl iq4_xs "
            "mxfp4, and with --imatrix iq3_s iq3_xxs iq2_s iq2_xs iq2_xxs), or a mix that spends more on what suffers "
            "most (q4_k_m, q3_k_l, iq3_m, ...). Norms and router stay f32. Default: q4_0.",
        ),
    ] = None
    embedding_type: Annotated[
        str | None,
        _option(
            "--embedding-type",
            panel=_TYPES,
            help="Type of the embedding (and output matrix); default: by the mix, or as --type, but q8_0 below 8 bits, "
            "f32 for q8_0.",
        ),
    ] = None
    tensor: Annotated[
        list[str] | None,
        _option(
            "--tensor",
            metavar="REGEX=TYPE",
            panel=_TYPES,
            help="Type of the tensors whose GGUF name matches, such as `ffn_down_exps=q6_k` or `blk\\.[01]\\.=q8_0`; "
            "repeatable, the last match counts.",
        ),
    ] = None
    plan: Annotated[
        Path | None,
        _option(
            "--plan", metavar="FILE", panel=_TYPES, help="Types by tensor name, as --save-plan writes them."
        ),
    ] = None
    save_plan: Annotated[
        Path | None,
        _option(
            "--save-plan", metavar="FILE", panel=_TYPES, help="Write the type of every tensor to a plan file."
        ),
    ] = None
    imatrix: Annotated[
        Path | None,
        _option(
            "--imatrix",
            metavar="FILE",
            panel=_TYPES,
            help="Importance matrix, from `pygrok imatrix` or llama.cpp: columns that are driven harder are rounded "
            "better.",
        ),
    ] = None
    calibrate: Annotated[
        list[Path] | None,
        _option(
            "--calibrate",
            metavar="TEXT",
            panel=_TYPES,
            help="Round each matrix so that its errors cancel in its outputs on this text (UTF-8; repeatable): the "
            "best there is at 4.5 bits and fewer. Takes hours for Grok-1, and about 20 GB of memory.",
        ),
    ] = None
    calibrate_tokens: Annotated[
        int | None,
        _option(
            "--calibrate-tokens",
            metavar="N",
            min=1,
            panel=_TYPES,
            help="Tokens to calibrate on, spread evenly over the texts; default: 32768. Memory and time grow with "
            "them.",
        ),
    ] = None
    fit: Annotated[
        str | None,
        _option(
            "--fit",
            metavar="SIZE",
            panel=_TYPES,
            help="Choose the type of every tensor so that all files together have at most this size, such as 96GiB, "
            "and the least is lost, instead of --type; --tensor, --plan and --embedding-type still count. Tells the KL "
            "it predicts.",
        ),
    ] = None
    fit_text: Annotated[
        Path | None,
        _option(
            "--fit-text",
            metavar="TEXT",
            panel=_TYPES,
            help="Measure on this text what each tensor's errors cost, by running SRC, a GGUF file that this machine "
            "can run; without it, that is estimated.",
        ),
    ] = None
    sensitivities: Annotated[
        Path | None,
        _option(
            "--sensitivities",
            metavar="FILE",
            panel=_TYPES,
            help="What --fit-text measured: read if the file is there, else written.",
        ),
    ] = None
    allow_requantize: Annotated[
        bool,
        _option(
            "--allow-requantize",
            panel=_TYPES,
            help="Quantize again what a GGUF source holds in a type below q8_0; it loses twice.",
        ),
    ] = False

    def arguments(self) -> dict[str, Any]:
        """As `convert` takes them. Raises UsageError."""
        from pygrok.quantize.plan import TypeRules, check_rule_name
        from pygrok.quantize.tensor_types import check_type

        if self.fit is None and (self.fit_text is not None or self.sensitivities is not None):
            raise UsageError("--fit-text and --sensitivities say something only about --fit; give that, too")
        if self.calibrate_tokens is not None and not self.calibrate:
            raise UsageError("--calibrate-tokens says something only about --calibrate; give that, too")
        if self.fit is not None and self.type is not None:
            raise UsageError("--type and --fit exclude each other: --fit chooses the type of every tensor")
        # Other tools write these names in capitals.
        name = (self.type or "q4_0").lower()
        embedding_type = None if self.embedding_type is None else self.embedding_type.lower()
        pairs = []
        try:
            check_rule_name(name)
            if embedding_type is not None:
                check_type(embedding_type, "embedding type")
            for text in self.tensor or ():
                pattern, equals, type_name = text.rpartition("=")
                if not equals or not pattern:
                    raise ValueError(f"--tensor {text}: expected REGEX=TYPE, such as ffn_down_exps=q6_k")
                pairs.append((pattern, check_type(type_name.lower(), f"type in --tensor {text}:")))
            TypeRules(name, embedding_type, tuple(pairs))
        except ValueError as error:
            raise UsageError(str(error)) from error
        arguments: dict[str, Any] = {
            "type": name,
            "embedding_type": embedding_type,
            "tensor_types": pairs,
            "plan_file": self.plan,
            "save_plan": self.save_plan,
            "imatrix": self.imatrix,
            "calibrate": self.calibrate or (),
            "fit": _size("--fit", self.fit),
            "fit_text": self.fit_text,
            "sensitivities": self.sensitivities,
            "allow_requantize": self.allow_requantize,
        }
        if self.calibrate_tokens is not None:
            arguments["calibrate_tokens"] = self.calibrate_tokens
        return arguments


@dataclass(frozen=True)
class OutputOptions:
    """Where it goes, and what is made sure of."""

    split: Annotated[
        str | None,
        _option(
            "--split",
            metavar="SIZE",
            panel=_OUTPUT,
            help="Write parts NAME-00001-of-0000N.gguf of at most this size, such as 48G (10^9) or 45GiB (2^30); "
            "pygrok and llama.cpp open the first. If all fits into one part, it is DST itself.",
        ),
    ] = None
    resume: Annotated[
        bool,
        _option(
            "--resume",
            panel=_OUTPUT,
            help="Go on with what a stopped conversion of the same source with the same options left behind; without "
            "one, begin. If this one is stopped, what is finished stays, too. The file is the same to the last byte.",
        ),
    ] = False
    verify: Annotated[
        bool,
        _option(
            "--verify",
            panel=_OUTPUT,
            help="Read the result back, compare it with the source and print each tensor's relative error; put it in "
            "place only if nothing is wrong.",
        ),
    ] = False
    report: Annotated[
        Path | None,
        _option(
            "--report",
            metavar="FILE.html",
            panel=_OUTPUT,
            help="Errors by layer and tensor as a picture, sizes, the plan, in one HTML file. Verifies, too; needs "
            "`pip install 'pygrok[report]'`.",
        ),
    ] = None
    force: Annotated[bool, _option("--force", "-f", panel=_OUTPUT, help="Overwrite DST and the report.")] = (
        False
    )
    dry_run: Annotated[
        bool,
        _option("--dry-run", "-n", panel=_OUTPUT, help="Check everything and print the plan; write nothing."),
    ] = False

    def arguments(self) -> dict[str, Any]:
        """As `convert` takes them. Raises UsageError."""
        return {
            "split": _size("--split", self.split),
            "resume": self.resume,
            "verify": self.verify,
            "report": self.report,
            "force": self.force,
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True)
class SourceOptions:
    """What the source does not tell itself."""

    config: Annotated[
        Path | None,
        _option(
            "--config",
            metavar="FILE",
            panel=_SOURCE,
            help="JSON file with xAI's or Hugging Face's field names; default: what a GGUF source says, else Grok-1's "
            "own values if the shapes are Grok-1's, else config.json beside or above the tensor files.",
        ),
    ] = None
    tokenizer: Annotated[
        Path | None,
        _option(
            "--tokenizer",
            metavar="FILE",
            panel=_SOURCE,
            help="SentencePiece model; default: a GGUF source's own, else tokenizer.model beside or above the tensor "
            "files.",
        ),
    ] = None
    no_tokenizer: Annotated[
        bool,
        _option("--no-tokenizer", panel=_SOURCE, help="Write none: the file takes and gives token ids only."),
    ] = False

    def arguments(self) -> dict[str, Any]:
        """As `convert` takes them. Raises UsageError."""
        if self.no_tokenizer and self.tokenizer is not None:
            raise UsageError("--tokenizer and --no-tokenizer exclude each other")
        return {"config": self.config, "tokenizer": self.tokenizer, "no_tokenizer": self.no_tokenizer}


@dataclass(frozen=True)
class RunOptions:
    """What changes no byte."""

    threads: Annotated[
        int | None,
        _option("--threads", "-t", min=1, max=1024, panel=_RUN, help="Threads; default: all available."),
    ] = None
    as_json: Annotated[bool, _option("--json", panel=_RUN, help="Print one JSON object instead of text.")] = (
        False
    )
    debug: Debug = False
