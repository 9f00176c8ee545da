"""How turns become the text that a model continues, and how that text meets what a session already holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pygrok.chat_template import JinjaTemplate, mark, plain, split_marks
from pygrok.errors import FormatError
from pygrok.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pygrok.model import Model

__all__ = ["DEFAULT_SYSTEM", "DialogueLayout", "JinjaLayout", "Layout", "Turn", "continuation", "layout_for"]

DEFAULT_SYSTEM = (
    "A conversation between a curious user and a helpful assistant. "
    "The assistant gives short, honest answers."
)

# A new line that opens a turn would let a message speak for the other side.
_FORGED_TURN = re.compile(r"\s*[\r\n]\s*(?=(?:User|Assistant):)")


@dataclass(frozen=True)
class Turn:
    """What the user said and what the model replied."""

    user: str
    assistant: str


# A base model continues what it sees: three short exchanges show it the form and the length of a reply.
_EXAMPLES = (
    Turn("What is the capital of France?", "Paris."),
    Turn(
        "Why is the sky blue?",
        "Air scatters blue light more than red light, so blue reaches our eyes from every side of the sky.",
    ),
    Turn("What did I have for breakfast?", "I cannot know that. You have not told me."),
)


class Layout(Protocol):
    """Lays out a conversation as text; control pieces stand as marks (`chat_template.mark`)."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts before which a reply ends."""

    @property
    def source(self) -> str | None:
        """A template's source, None for the built-in dialogue."""

    @property
    def default_system(self) -> str:
        """The system prompt where neither the user nor the file gives one."""

    def render(self, system: str, turns: Sequence[Turn], user: str) -> str:
        """The text up to where the reply to `user` begins."""


class DialogueLayout:
    """Plain `User:` / `Assistant:` lines, with worked examples for a model never tuned for chat."""

    stop = ("\nUser:", "\nAssistant:")
    source = None
    default_system = DEFAULT_SYSTEM

    def __init__(self, *, examples: bool, bos: int | None) -> None:
        """examples: put the few-shot turns first. bos: a control piece to start with."""
        self._examples = _EXAMPLES if examples else ()
        self._start = "" if bos is None else mark(bos)

    def render(self, system: str, turns: Sequence[Turn], user: str) -> str:
        """The dialogue; a line of a message that would open a turn is joined to the line before it."""
        parts = [f"{system}\n\n"] if system else []
        for turn in (*self._examples, *turns):
            reply = f" {turn.assistant}" if turn.assistant else ""
            parts.append(f"User: {_one_speaker(turn.user)}\nAssistant:{reply}\n")
        parts.append(f"User: {_one_speaker(user)}\nAssistant:")
        return self._start + plain("".join(parts))


class JinjaLayout:
    """A jinja2 template, given messages with the roles system, user and assistant."""

    stop: tuple[str, ...] = ()
    default_system = ""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """Raises PygrokError if source is no valid template."""
        self._template = JinjaTemplate(source, tokenizer)

    @property
    def source(self) -> str:
        """The template."""
        return self._template.source

    def render(self, system: str, turns: Sequence[Turn], user: str) -> str:
        """Raises PygrokError for whatever the template does wrong."""
        messages = [{"role": "system", "content": system}] if system else []
        for turn in turns:
            messages.append({"role": "user", "content": turn.user})
            messages.append({"role": "assistant", "content": turn.assistant})
        messages.append({"role": "user", "content": user})
        return self._template.render(messages)


def layout_for(model: Model, template: str | None = None) -> Layout:
    """The layout that a template's source, else the model's file, asks for; else the dialogue.

    The file's keys: tokenizer.chat_template, or pygrok.chat.few_shot (false: the model knows the dialogue).
    """
    source = template if template is not None else model.metadata("tokenizer.chat_template")
    if source is not None:
        return JinjaLayout(str(source), model.tokenizer)
    examples = model.metadata("pygrok.chat.few_shot")
    if examples is None:
        examples = "nano" not in str(model.metadata("general.name", "")).lower()
    tokenizer = model.tokenizer
    if not isinstance(examples, int):
        raise FormatError(f"{model.path}: pygrok.chat.few_shot is no truth value")
    return DialogueLayout(examples=bool(examples), bos=tokenizer.bos_id if tokenizer.add_bos else None)


def _one_speaker(text: str) -> str:
    return _FORGED_TURN.sub(" ", text)


def continuation(tokenizer: Tokenizer, held: Sequence[int], text: str) -> tuple[int, list[int]]:
    """How a session that holds ids `held` gets to hold a rendered text.

    Returns how many of the held ids stay and which ids to feed then (one at least). A reply stays as the ids
    that the model made, which may differ from what encoding its text would give.
    """
    text = text.replace("\u2581", " ")  # the same to SentencePiece, and what ids decode to
    detokenizer = tokenizer.detokenizer()
    at = keep = keep_at = 0
    for index, token in enumerate(held):
        shown = detokenizer.feed(token)
        if tokenizer.surface(token) == "":
            shown += mark(token)
        if not text.startswith(shown, at):
            break
        at += len(shown)
        # Only where no word is cut in two: the rest is encoded by itself.
        if not detokenizer.pending and (at == len(text) or text[at] in " \n\ufdd0"):
            keep, keep_at = index + 1, at
    if keep and keep_at == len(text):
        return keep - 1, [held[keep - 1]]
    ids: list[int] = []
    at_start = not _has_text(tokenizer, held[:keep])
    for part in split_marks(text[keep_at:]):
        if isinstance(part, int):
            ids.append(part)
        else:
            ids += tokenizer.encode(part, add_dummy_prefix=at_start)
            at_start = False
    return keep, ids


def _has_text(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether any of the ids is more than a control piece."""
    return any(tokenizer.surface(token) != "" for token in ids)
