"""A conversation whose past stays in the key/value cache."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrok.chat_layout import Turn, continuation, layout_for
from pygrok.errors import Cancelled, ContextOverflow, FormatError, PygrokError
from pygrok.generate import GenerationChunk, stream
from pygrok.sampling import Sampler, SamplingParams
from pygrok.stopping import StopStrings

if TYPE_CHECKING:
    from pygrok.model import Model

__all__ = ["Chat", "Turn"]

_FORMAT = "pygrok-chat"
_VERSION = 1


class Chat:
    """Turns between a user and a model. One thread at a time.

    A new turn is the only thing that is computed: what the session already holds of the conversation is
    kept. When the context is full the oldest turns are left out of what the model sees, with a notice.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        template: str | None = None,
        sampling: SamplingParams | None = None,
        stop: str | Sequence[str] | None = None,
        max_tokens: int = 512,
    ) -> None:
        """system: None is the file's (key pygrok.chat.system) or the layout's own; "" is none.
        template: jinja2 source; None is the file's, else a dialogue (see docs/chat.md).
        stop: texts that end a reply, beside the layout's. max_tokens: of a reply.

        Raises ModelError (no tokenizer), PygrokError (the template), ValueError.
        """
        self.model = model
        self.max_tokens = max_tokens
        self.turns: list[Turn] = []
        """All turns, those included that no longer fit the context."""
        self.notices: list[str] = []
        """What the user should be told, oldest first; grows."""
        self._template = template
        self._layout = layout_for(model, template)
        self.system = self._default_system() if system is None else system
        """The system prompt; may be set, and counts from the next turn on."""
        self._sampling = SamplingParams() if sampling is None else sampling
        self._sampler = Sampler(self._sampling)
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop or ())
        StopStrings(self.stop)
        self._session = model.session()
        self._first = 0  # the oldest turn that the model still sees

    @property
    def sampling(self) -> SamplingParams:
        """How tokens are drawn; setting it starts a new random stream."""
        return self._sampling

    @sampling.setter
    def sampling(self, params: SamplingParams) -> None:
        self._sampling = params
        self._sampler = Sampler(params)

    @property
    def position(self) -> int:
        """Tokens that the session holds now."""
        return self._session.position

    def send(self, text: str, *, max_tokens: int | None = None) -> Generator[GenerationChunk, None, None]:
        """Say something; yield the reply as it comes, without the white space around it.

        The turn is recorded when the reply ends. If the caller stops taking chunks, or on Ctrl-C, what has
        come is recorded as the reply; after any other error the chat is as before. The first chunk may carry
        a notice. Raises ValueError for an empty text, ContextOverflow if the text alone does not fit, and as
        `stream`.
        """
        user = text.strip()
        if not user:
            raise ValueError("the message is empty: say something")
        self.model.tokenizer.encode(user)  # says now, not at the first chunk, if this is no Unicode
        return self._reply(user, self._limit(max_tokens), again=False)

    def retry(self, *, max_tokens: int | None = None) -> Generator[GenerationChunk, None, None]:
        """Take the last turn back and answer it anew, with the next random numbers.

        The old reply comes back if the new one fails or nothing of it has come. Raises ValueError if there is
        no turn.
        """
        if not self.turns:
            raise ValueError("there is no turn to retry")
        return self._reply(self.turns[-1].user, self._limit(max_tokens), again=True)

    def reset(self) -> None:
        """Forget all turns; settings stay."""
        self.turns.clear()
        self._first = 0

    def _limit(self, max_tokens: int | None) -> int:
        return self.max_tokens if max_tokens is None else max_tokens

    def _reply(self, user: str, max_tokens: int, *, again: bool) -> Generator[GenerationChunk, None, None]:
        replaced = [self.turns.pop()] if again else []
        trim = _Trimmer()
        reply = ""
        try:
            keep, ids, notice = self._prompt(user, max_tokens)
            self._session.rewind(keep)
            for chunk in stream(
                self.model,
                ids,
                self._sampler,
                max_tokens=max_tokens,
                stop=(*self._layout.stop, *self.stop),
                session=self._session,
            ):
                shown = trim.push(chunk.text)
                reply += shown
                yield replace(chunk, text=shown, notice=notice)
                notice = None
        except BaseException as error:
            stopped = isinstance(error, GeneratorExit | KeyboardInterrupt | Cancelled)
            self.turns += [Turn(user, reply)] if stopped and reply else replaced
            raise
        self.turns.append(Turn(user, reply))

    def _prompt(self, user: str, max_tokens: int) -> tuple[int, list[int], str | None]:
        """Ids of the session to keep, ids to feed, and a notice if turns were dropped."""
        context = self.model.context
        keep, ids = self._continue(user)
        room = max(1, min(max_tokens, context // 4))
        first = self._first
        if keep + len(ids) + room > context:
            # Make room for some turns to come: each dropping costs a prefill of all that stays.
            while self._first < len(self.turns) and keep + len(ids) > context * 3 // 4:
                self._first += 1
                keep, ids = self._continue(user)
        if keep + len(ids) > context:
            needed, self._first = keep + len(ids), first
            raise ContextOverflow(
                f"the message with its preamble takes {needed} tokens, the context holds {context}: "
                "shorten it or load the model with a larger context"
            )
        dropped = self._first - first
        if not dropped:
            return keep, ids, None
        turns = "turn was" if dropped == 1 else f"{dropped} turns were"
        notice = (
            f"the oldest {turns} dropped: the conversation no longer fits the context of {context} tokens"
        )
        self.notices.append(notice)
        return keep, ids, notice

    def _continue(self, user: str) -> tuple[int, list[int]]:
        text = self._layout.render(self.system, self.turns[self._first :], user)
        return continuation(self.model.tokenizer, self._session.ids, text)

    def _default_system(self) -> str:
        return str(self.model.metadata("pygrok.chat.system", self._layout.default_system))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write turns and settings as JSON, beside the file and then renamed. Raises OSError."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "system": self.system,
            "template": self._template,
            "sampling": self.sampling.to_dict(),
            "stop": list(self.stop),
            "max_tokens": self.max_tokens,
            "turns": [{"user": turn.user, "assistant": turn.assistant} for turn in self.turns],
        }
        target = Path(path)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace turns and settings by those of a file that `save` wrote.

        Raises OSError, FormatError (the chat stays as it was), PygrokError (its template).
        """
        document = _read(Path(path))
        try:
            sampling = SamplingParams.from_dict(_field(document, "sampling", dict))
            template = document.get("template")
            if template is not None and not isinstance(template, str):
                raise ValueError("template is no text")
            stop = tuple(_field(document, "stop", list))
            StopStrings(stop)
            turns = [Turn(_field(t, "user", str), _field(t, "assistant", str)) for t in _turns(document)]
            system = _field(document, "system", str)
            max_tokens = _field(document, "max_tokens", int)
            if max_tokens < 0:
                raise ValueError(f"max_tokens is {max_tokens}")
            json.dumps(
                [system, template, stop, [(t.user, t.assistant) for t in turns]], ensure_ascii=False
            ).encode()
        except (ValueError, TypeError) as error:
            if isinstance(error, PygrokError):
                raise
            raise FormatError(f"{os.fspath(path)}: not a saved chat: {error}") from None
        self._layout = layout_for(self.model, template)
        self._template, self.system, self.stop, self.max_tokens = template, system, stop, max_tokens
        self.sampling = sampling
        self.turns[:] = turns
        self._first = 0


class _Trimmer:
    """Takes off the white space around a text that comes in pieces."""

    def __init__(self) -> None:
        self._started = False
        self._held = ""

    def push(self, text: str) -> str:
        """Return what is certain to stand before the last character that is no white space."""
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        text = self._held + text
        shown = text.rstrip()
        self._held = text[len(shown) :]
        return shown


def _read(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a saved chat: {error}") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise FormatError(f"{path}: not a saved chat: it lacks format {_FORMAT!r}")
    if document.get("version") != _VERSION:
        raise FormatError(
            f"{path}: a saved chat of version {document.get('version')!r}: this pygrok reads {_VERSION}"
        )
    return document


def _field(document: Any, name: str, kind: type) -> Any:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or is no {kind.__name__}")
    return value


def _turns(document: dict[str, Any]) -> list[Any]:
    turns: list[Any] = _field(document, "turns", list)
    return turns
