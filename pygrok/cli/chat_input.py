"""Where the user's turns come from: an editor on a terminal, or lines of a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

_FENCE = '"""'


class Reader(Protocol):
    """A source of turns."""

    def read(self) -> str | None:
        """The next turn, None at the end of input. Raises KeyboardInterrupt when the user wants to leave."""


def is_complete(text: str) -> bool:
    """Whether Enter ends the turn: no open fence of triple quotes, no backslash at the end of the line."""
    if text.lstrip().startswith(_FENCE):
        return len(text.strip()) >= 2 * len(_FENCE) and text.rstrip().endswith(_FENCE)
    return not text.endswith("\\")


def unwrap(text: str) -> str:
    """The turn without fences and continuation marks."""
    bare = text.strip()
    if bare.startswith(_FENCE):
        return bare.removeprefix(_FENCE).removesuffix(_FENCE).strip("\n")
    return text.replace("\\\n", "\n").removesuffix("\\")


class LineReader:
    """Turns from lines that are not typed into an editor. Writes nothing but `prompt`, if there is one."""

    def __init__(self, stream: IO[str] | None = None, prompt: str = "") -> None:
        self._stream = sys.stdin if stream is None else stream
        self._prompt = prompt

    def _line(self) -> str:
        if self._prompt:
            print(self._prompt, end="", file=sys.stderr, flush=True)
        try:
            return self._stream.readline()
        except UnicodeDecodeError as error:
            raise ValueError("standard input is not UTF-8; convert it with iconv") from error

    def read(self) -> str | None:
        text = line = self._line()
        while line and not is_complete(text.removesuffix("\n")):
            line = self._line()
            text += line
        return unwrap(text.removesuffix("\n")) if text else None


class EditorReader:
    """Line editing with history and completion. Alt-Enter adds a line."""

    def __init__(self, commands: dict[str, list[str]]) -> None:
        """commands: each slash command with the words that may follow it."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
        from prompt_toolkit.document import Document

        class Slash(Completer):
            def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
                before = document.text_before_cursor
                if not before.startswith("/") or "\n" in before:
                    return
                name, space, rest = before.partition(" ")
                if space and name in ("/save", "/load"):
                    yield from PathCompleter(expanduser=True).get_completions(Document(rest), event)
                    return
                choices = commands.get(name, []) if space else list(commands)
                typed = rest if space else name
                for word in choices:
                    if word.startswith(typed):
                        yield Completion(word, start_position=-len(typed))

        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=Slash(),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=lambda width, line, wrapped: "." * (width - 1) + " ",
            enable_open_in_editor=True,
        )

    def read(self) -> str | None:
        try:
            return unwrap(self._session.prompt("> "))
        except EOFError:
            return None


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # Enter takes the completion first
        elif is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


def state_dir() -> Path:
    """$XDG_STATE_HOME/pygrok, by default ~/.local/state/pygrok."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state") / "pygrok"


def _history() -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        directory = state_dir()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "chat_history"
        path.touch(mode=0o600)
    except (OSError, RuntimeError):  # read-only or no home: a chat needs no history
        return InMemoryHistory()
    return FileHistory(str(path))


def turns(reader: Reader) -> Iterator[str]:
    """All turns that are not blank."""
    while (text := reader.read()) is not None:
        if text.strip():
            yield text
