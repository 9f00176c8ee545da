"""`pygrok generate`: continue a text."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from pygrok.cli import paging_output, ui
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import AsJson, ModelFile, RunOptions, SamplingOptions, with_options


@with_options
def generate(
    *,
    model: ModelFile = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Text to continue.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            help="Read the text from this file, '-' for standard input; one newline at its end is left out.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=0, help="Tokens at most.")] = 256,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="End before this text; may be given several times.", show_default=False),
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the text that is continued, too.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print speeds on standard error at the end.")
    ] = False,
    as_json: AsJson = False,
    sampling: SamplingOptions,
    run: RunOptions,
) -> None:
    """Continue a text and print what follows, as it is made.

    Examples: `pygrok generate -p "Once upon a time" -n 100`

    `pygrok generate grok-1-q4_0.gguf -f notes.txt --temperature 0 --json`
    """
    text = _prompt(prompt, file)
    params = sampling.params()
    with run.opened(model) as loaded:
        if as_json:
            whole = loaded.generate(text, params, max_tokens=max_tokens, stop=stop or ())
            ui.print_json(
                {
                    "prompt": text,
                    "text": whole.text,
                    "prompt_tokens": whole.timings.prompt_tokens,
                    "tokens": len(whole.ids),
                    "finish_reason": whole.finish_reason,
                    "timings": {
                        **asdict(whole.timings),
                        "prefill_tokens_per_second": whole.timings.prefill_tokens_per_second,
                        "decode_tokens_per_second": whole.timings.decode_tokens_per_second,
                    },
                    "paging": paging_output.figures(loaded.engine.paging()),
                }
            )
            return
        out = ui.Streamed()
        timings = None
        try:
            if echo:
                out.write(text)
            for chunk in loaded.stream(text, params, max_tokens=max_tokens, stop=stop or ()):
                out.write(chunk.text)
                timings = chunk.timings
        except Exception:  # not Ctrl-C, which ends the line itself
            out.end_line()
            raise
        out.end_line()
        if stats and timings is not None:
            print(ui.speeds(timings), file=sys.stderr)
            ui.print_pairs(paging_output.pairs(loaded.engine.paging()), file=sys.stderr)


def _prompt(prompt: str | None, file: str | None) -> str:
    if (prompt is None) == (file is None):
        raise UsageError(
            "give the text to continue, with either -p TEXT or -f FILE ('-f -' reads standard input)"
        )
    if file is None:
        return prompt or ""
    text = read_text(file)
    return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text
