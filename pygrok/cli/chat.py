"""`pygrok chat`: a conversation in the terminal or over a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrok.cli import chat_commands, errors, paging_output, ui
from pygrok.cli.chat_input import EditorReader, LineReader, Reader, turns
from pygrok.cli.errors import UsageError
from pygrok.cli.files import read_text
from pygrok.cli.options import ModelFile, RunOptions, SamplingOptions, with_options
from pygrok.errors import PygrokError

if TYPE_CHECKING:
    from pygrok.chat import Chat
    from pygrok.generate import GenerationChunk, Timings
    from pygrok.model import Model
    from pygrok.sampling import SamplingParams

_BASE_MODEL = (
    "Grok-1 is a base model, never tuned for chat: it continues the dialogue, may ramble, "
    "and its answers are not to be relied on."
)


@with_options
def chat(
    *,
    model: ModelFile = None,
    system: Annotated[
        str | None,
        typer.Option("--system", "-s", help="System prompt; default: the model's.", show_default=False),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            "--template",
            help="Jinja2 file that lays out the turns; default: the model's.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", min=1, help="Tokens per reply at most.")
    ] = 512,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop", help="End a reply before this text, too; may be repeated.", show_default=False
        ),
    ] = None,
    sampling: SamplingOptions,
    run: RunOptions,
) -> None:
    """Talk to a model. /help lists what can be done during the chat.

    The first Ctrl-C stops a reply, the second leaves; so does Ctrl-D. When standard input is not a
    terminal, each line is a turn, standard output gets only the replies, and the first error ends the chat.

    Example: `pygrok chat grok-1-q4_0.gguf --temperature 0.7`
    """
    params = sampling.params()
    layout = None if template is None else read_text(template)
    with run.opened(model) as loaded:
        conversation = _open(loaded, system, layout, params, stop, max_tokens)
        editing = sys.stdin.isatty() and sys.stdout.isatty()
        if model is not None:
            print(_BASE_MODEL, file=sys.stderr)
        Talk(conversation, editing).run(_reader(editing))


def _open(
    model: Model,
    system: str | None,
    template: str | None,
    sampling: SamplingParams,
    stop: list[str] | None,
    max_tokens: int,
) -> Chat:
    import pygrok

    try:
        return pygrok.Chat(
            model, system=system, template=template, sampling=sampling, stop=stop, max_tokens=max_tokens
        )
    except PygrokError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _reader(editing: bool) -> Reader:
    if editing and os.environ.get("TERM") != "dumb":
        words: dict[str, list[str]] = {name: [] for name in chat_commands.COMMANDS}
        words["/params"] = ["max_tokens", *chat_commands.numeric_params()]
        return EditorReader(words)
    return LineReader(prompt="> " if editing else "")


class Talk:
    """The loop of a chat and its running totals."""

    def __init__(self, chat: Chat, editing: bool) -> None:
        self.chat = chat
        self._editing = editing
        self._console = sys.stdout if editing else sys.stderr  # in a pipe, stdout is for replies alone
        self._out = ui.Streamed()
        self._replies = self._tokens = self._notices = 0
        self._seconds = 0.0
        self._last: Timings | None = None

    def run(self, reader: Reader) -> None:
        """Until the user leaves."""
        if self._editing:
            self.say("/help shows the commands, Ctrl-D leaves.")
        for text in turns(reader):
            try:
                self._turn(text)
            except chat_commands.LeaveChat:
                return
            except BrokenPipeError:
                raise
            except (UsageError, PygrokError, ValueError, OSError) as error:
                if not self._editing:
                    raise
                self.say(f"error: {errors.one_line(str(error))}")

    def _turn(self, text: str) -> None:
        if text.startswith("//"):
            text = text[1:]
        elif text.startswith("/"):
            chat_commands.run_command(self, text)
            return
        self.show(self.chat.send(text))

    def show(self, chunks: Generator[GenerationChunk, None, None]) -> None:
        """Print a reply as it comes. On a terminal, Ctrl-C ends it; what has come stays in the chat."""
        timings = None
        stopped = False
        try:
            with closing(chunks):
                for chunk in chunks:
                    self._out.write(chunk.text)
                    timings = chunk.timings
        except KeyboardInterrupt:
            if not self._editing:
                raise
            stopped = True
        finally:
            self._out.end_line()
        for notice in self._new_notices():
            self.say(f"note: {notice}")
        if timings is not None:
            self._count(timings)
        if self._editing:
            parts = ["stopped"] if stopped else []
            parts += [] if timings is None else [ui.speeds(timings)]
            self.say(f"[{'; '.join(parts)}]")

    def say(self, text: str) -> None:
        """Print a line of the program's own."""
        print(text, file=self._console, flush=True)

    def pairs(self, rows: list[tuple[str, str]]) -> None:
        """Print aligned rows."""
        ui.print_pairs(rows, file=self._console)

    def _new_notices(self) -> list[str]:
        new = list(self.chat.notices[self._notices :])
        self._notices = len(self.chat.notices)
        return new

    def _count(self, timings: Timings) -> None:
        self._last = timings
        self._replies += 1
        self._tokens += timings.tokens
        self._seconds += timings.decode_seconds

    def stats(self) -> list[tuple[str, str]]:
        """What /stats prints."""
        rows = [("replies", str(self._replies)), ("tokens", str(self._tokens))]
        if self._seconds:
            rows.append(("decode", f"{ui.scaled(self._tokens / self._seconds)} tokens/s on average"))
        if self._last is not None:
            rows.append(("last reply", ui.speeds(self._last)))
        memory = ui.resident()
        rows += [
            ("memory", f"{ui.size(memory['anonymous_bytes'])} of its own"),
            ("mapped", f"{ui.size(memory['file_backed_bytes'])} of files, weights among them"),
            *paging_output.pairs(self.chat.model.engine.paging()),
        ]
        return rows
