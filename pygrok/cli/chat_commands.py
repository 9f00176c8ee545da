"""The slash commands of `pygrok chat`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pygrok.cli import ui
from pygrok.cli.errors import UsageError

if TYPE_CHECKING:
    from pygrok.cli.chat import Talk


class LeaveChat(Exception):  # noqa: N818  # not an error
    """The user is done."""


class Command(NamedTuple):
    """One slash command."""

    arguments: str
    summary: str
    run: Callable[[Talk, str], None]


def _help(talk: Talk, rest: str) -> None:
    del rest
    talk.pairs([(f"{name} {c.arguments}".rstrip(), c.summary) for name, c in COMMANDS.items()])
    talk.say('More lines: Alt-Enter, a backslash at the end of a line, or """ around them.')
    talk.say("A message that starts with a slash: write two of them.")
    talk.say("Ctrl-C stops a reply; at an empty prompt it leaves, as Ctrl-D does.")


def _system(talk: Talk, rest: str) -> None:
    if rest:
        talk.chat.system = rest
        talk.say("System prompt set.")
    else:
        talk.say(ui.harmless(talk.chat.system) or "No system prompt.")


def _reset(talk: Talk, rest: str) -> None:
    del rest
    talk.chat.reset()
    talk.say("New conversation.")


def _retry(talk: Talk, rest: str) -> None:
    del rest
    talk.show(talk.chat.retry())


def _save(talk: Talk, rest: str) -> None:
    path = _path(rest, "/save")
    talk.chat.save(path)
    talk.say(f"Saved to {path}.")


def _load(talk: Talk, rest: str) -> None:
    path = _path(rest, "/load")
    talk.chat.load(path)
    talk.say(f"Loaded {len(talk.chat.turns)} turns from {path}.")


def _path(rest: str, command: str) -> Path:
    if not rest:
        raise UsageError(f"{command} needs a file name")
    return Path(rest).expanduser()


def _params(talk: Talk, rest: str) -> None:
    """No argument: show. NAME VALUE ...: set."""
    words = rest.split()
    if len(words) % 2:
        raise UsageError("/params takes pairs, such as: /params temperature 0.7 top_p 0.9")
    changes: dict[str, int | float | None] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name != "max_tokens" and name not in numeric_params():
            raise UsageError(
                f"/params: no parameter {name!r}; there are {', '.join(['max_tokens', *numeric_params()])}"
            )
        changes[name] = _number(name, value)
    limit = changes.pop("max_tokens", talk.chat.max_tokens)
    if not isinstance(limit, int) or limit < 1:
        raise UsageError(f"/params: max_tokens must be a whole number of at least 1, not {limit!r}")
    try:
        talk.chat.sampling = replace(talk.chat.sampling, **changes)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UsageError(f"/params: {error}") from error
    talk.chat.max_tokens = limit
    known = talk.chat.sampling
    talk.pairs(
        [
            ("max_tokens", str(talk.chat.max_tokens)),
            *((name, str(getattr(known, name))) for name in numeric_params()),
        ]
    )


def numeric_params() -> list[str]:
    """Names of the sampling parameters that are single numbers."""
    from pygrok import SamplingParams

    return [f.name for f in fields(SamplingParams) if f.name != "logit_bias"]


def _number(name: str, value: str) -> int | float | None:
    if value.lower() == "none":
        return None
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            raise UsageError(f"/params: {name} must be a number, not {value!r}") from None


def _stats(talk: Talk, rest: str) -> None:
    del rest
    talk.pairs(talk.stats())


def _quit(talk: Talk, rest: str) -> None:
    del talk, rest
    raise LeaveChat


COMMANDS: dict[str, Command] = {
    "/help": Command("", "show this", _help),
    "/system": Command("[TEXT]", "show the system prompt, or set it", _system),
    "/reset": Command("", "start a new conversation", _reset),
    "/retry": Command("", "answer the last message again", _retry),
    "/save": Command("FILE", "save the conversation", _save),
    "/load": Command("FILE", "go on with a saved conversation", _load),
    "/params": Command("[NAME VALUE ...]", "show the sampling parameters, or set some", _params),
    "/stats": Command("", "show speeds and memory", _stats),
    "/quit": Command("", "leave", _quit),
}


def run_command(talk: Talk, line: str) -> None:
    """Carry out one slash command. Raises UsageError for an unknown one, LeaveChat to end the chat."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"no command {name!r}; /help lists them, // starts a message with a slash")
    command.run(talk, rest.strip())
