"""`pygrok imatrix`: how strongly a text drives each input channel of a model's weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrok.cli import ui
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import AsJson, RunOptions, with_options

if TYPE_CHECKING:
    from pygrok.model import Model
    from pygrok.quantize.imatrix import Coverage

_SHOWN = 5  # experts in a warning


@with_options
def imatrix(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] TEXT...",
            help="GGUF file (default: the model in the package) and text files, UTF-8; - is standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.", show_default=False)
    ],
    chunk: Annotated[
        int | None,
        typer.Option(
            "--chunk", min=1, help="Tokens that see one another; default: 512 or the context, if smaller."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", "-n", min=1, help="Stop after this many tokens of the texts together."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="FILE",
            help="Add the sums of an earlier importance matrix of this model; may be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --output.")] = False,
    as_json: AsJson = False,
    run: RunOptions,
) -> None:
    """Measure an importance matrix: the mean squared activation of every input channel, expert by expert.

    `pygrok-quantize --imatrix FILE` then spends precision where it matters. The file is in the GGUF form that
    other tools read and write too. Take some 100 thousand tokens of what the model will be used for: prose,
    code, chats. Use the model at the highest precision that fits this machine.

    Example: `pygrok imatrix grok-1-q8_0.gguf prose.txt code.txt -o grok-1.imatrix.gguf`
    """
    from pygrok.quantize.imatrix import ImportanceMatrix, collect

    model, texts = _split(files)
    earlier = [ImportanceMatrix.load(path) for path in merge or []]
    if output.exists() and not force:
        raise UsageError(f"{output} exists; --force overwrites it")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.absolute().parent}: no such directory")
    with run.opened(model) as loaded:
        size = min(512, loaded.context) if chunk is None else chunk
        if size > loaded.context:
            raise UsageError(f"--chunk {size} exceeds the context of {loaded.context}; raise --context")
        ids = list(_encode(loaded, texts, tokens))
        total = sum(len(each) for each in ids)
        if not total:
            raise ValueError(f"{', '.join(map(str, texts))}: no text; at least one token is needed")
        begin = time.perf_counter()
        with ui.Progress(total, "tokens") as progress:
            found = collect(
                loaded,
                ids,
                chunk_size=size,
                datasets=["standard input" if str(t) == "-" else t.name for t in texts],
                progress=progress.show,
            )
        seconds = time.perf_counter() - begin
    for each in earlier:
        found = found.merge(each)
    found.save(output)
    coverage, rare = found.coverage(), found.rarely_routed()
    result: dict[str, Any] = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "tensors": len(found.names),
        "tokens": total,
        "tokens_with_merged": found.tokens,
        "chunk": size,
        "experts": [
            {"layer": c.layer, "expert": c.expert, "tokens": c.tokens, "few": c in rare} for c in coverage
        ],
        "seconds": seconds,
        "tokens_per_second": total / seconds,
    }
    _warn(rare, len(coverage))
    if as_json:
        ui.print_json(result)
    else:
        more = f", {found.tokens} with those merged" if earlier else ""
        print(f"{output}: {len(found.names)} tensors, {ui.size(result['bytes'])}")
        print(f"{total} tokens in chunks of {size}{more}, {ui.scaled(total / seconds)} tokens/s")
    sys.stdout.flush()


def _split(files: list[Path]) -> tuple[Path | None, list[Path]]:
    """The model, if the first file is one (or is called one), and the texts."""
    first = files[0]
    named = first.suffix == ".gguf"
    if str(first) != "-" and first.is_file():
        with first.open("rb") as file:
            named = file.read(4) == b"GGUF" or named
    model, texts = (first, files[1:]) if named else (None, files)
    if not texts:
        raise UsageError("no text given; expected [MODEL] TEXT...")
    return model, texts


def _encode(model: Model, texts: list[Path], limit: int | None) -> Iterator[list[int]]:
    """The ids of each text, no more than `limit` in all."""
    left = limit
    for text in texts:
        ids = model.tokenizer.encode(read_text(text))[:left]
        if left is not None:
            left -= len(ids)
        yield ids


def _warn(rare: list[Coverage], experts: int) -> None:
    if not rare:
        return
    shown = ", ".join(f"layer {c.layer} expert {c.expert}: {c.tokens}" for c in rare[:_SHOWN])
    rest = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
    print(
        f"pygrok: warning: {len(rare)} of {experts} experts saw few tokens, so that their figures are rough or their "
        f"layer's average ({shown}{rest}); more or more varied text would help",
        file=sys.stderr,
    )
