"""What the Python layer's unit tests run on: a small tokenizer, and an engine that says what a script says.

The engine keeps the contract of `pygrok._core.Engine` that the layer relies on (positions, context limit,
logits of the last id, nothing changed by an error) and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok import Chat, Model, SamplingParams, Tokenizer
from pygrok.errors import ContextOverflow
from pygrok.sentencepiece_proto import (
    PIECE_BYTE,
    PIECE_CONTROL,
    PIECE_NORMAL,
    PIECE_UNKNOWN,
    PIECE_USER_DEFINED,
    SpecialIds,
    model_proto,
)

PAD, BOS, EOS, UNK = range(4)
WORDS = ["▁User", "▁Assistant", "▁Paris", "▁hello", "▁world", "▁the", "▁answer", "▁echo", "User", "Assistant"]


def pieces() -> tuple[list[str], list[int]]:
    """Control pieces, runs of newlines, digits, bytes, letters, and some words with all their beginnings."""
    held = [
        ("[PAD]", PIECE_CONTROL),
        ("[BOS]", PIECE_CONTROL),
        ("[EOS]", PIECE_CONTROL),
        ("[UNK]", PIECE_UNKNOWN),
    ]
    held += [("\n" * n, PIECE_USER_DEFINED) for n in (1, 2, 3)]
    held += [(str(n), PIECE_USER_DEFINED) for n in range(10)]
    held += [(f"<0x{n:02X}>", PIECE_BYTE) for n in range(256)]
    known = {text for text, _ in held}
    longer = dict.fromkeys(word[:n] for word in WORDS for n in range(2, len(word) + 1))
    letters = [chr(n) for n in range(33, 127) if chr(n) not in known]
    held += [(text, PIECE_NORMAL) for text in [*longer, "▁", *letters, "é"]]
    return [text for text, _ in held], [kind for _, kind in held]


def tokenizer_metadata(**more: Any) -> dict[str, Any]:
    """The tokenizer.ggml.* keys as `GgufFile.get` gives them."""
    texts, kinds = pieces()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text.encode() for text in texts],
        "tokenizer.ggml.scores": -np.arange(len(texts), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.padding_token_id": PAD,
        "tokenizer.ggml.add_bos_token": False,
        **more,
    }


def small_tokenizer() -> Tokenizer:
    texts, kinds = pieces()
    scores = -np.arange(len(texts), dtype=np.float32)
    special = SpecialIds(UNK, BOS, EOS, PAD)
    return Tokenizer(model_proto([t.encode() for t in texts], scores, kinds, special), source="small")


class FakeFile:
    """The part of `GgufFile` that a model reads."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self._metadata = metadata
        self.paths = ["fake.gguf"]

    def get(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(key, default)


class FakeSession:
    def __init__(self, held: Sequence[int] = ()) -> None:
        self.held = list(held)
        self.kv_bytes = 0

    @property
    def ids(self) -> NDArray[np.int32]:
        return np.array(self.held, np.int32)

    @property
    def position(self) -> int:
        return len(self.held)

    def rewind(self, position: int) -> None:
        del self.held[position:]

    def fork(self) -> FakeSession:
        return FakeSession(self.held)


Script = Callable[[list[int]], int]
"""The id that follows those held."""


class FakeEngine:
    def __init__(self, script: Script, *, vocab: int, context: int) -> None:
        self.config = SimpleNamespace(vocab=vocab, context=context)
        self.context = context
        self.isa, self.threads, self.kv_type = "fake", 1, "f32"
        self.fed: list[int] = []  # ids in each call, for what a turn costs
        self.fail: Exception | None = None  # raised by the next call
        self._script = script

    def new_session(self) -> FakeSession:
        return FakeSession()

    def feed(
        self,
        sessions: Sequence[FakeSession],
        ids: Sequence[NDArray[np.int32]],
        logits: str,
        observer: None = None,
    ) -> list[NDArray[np.float32]]:
        for session, new in zip(sessions, ids, strict=True):
            if session.position + len(new) > self.context:
                raise ContextOverflow("too long")
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        result = []
        for session, new in zip(sessions, ids, strict=True):
            assert new.dtype == np.int32
            session.held += new.tolist()
            self.fed.append(len(new))
            if logits == "last":
                row = np.zeros(self.config.vocab, np.float32)
                row[self._script(session.held)] = 20
                result.append(row)
        return result

    def close(self) -> None:
        self._script = lambda held: EOS


def fake_model(
    script: Script, metadata: Mapping[str, Any] | None = None, *, context: int = 4096, padding: int = 0
) -> tuple[Model, FakeEngine]:
    """A model on a script. padding: rows of the embedding beyond the tokenizer's pieces."""
    held = tokenizer_metadata(**(metadata or {}))
    engine = FakeEngine(script, vocab=len(held["tokenizer.ggml.tokens"] or "x") + padding, context=context)
    return Model(engine, FakeFile(held)), engine  # type: ignore[arg-type]


def saying(text: str, *, end: bool = True) -> Script:
    """Whatever came before: the pieces of text, then eos (or the text again)."""
    tokenizer = small_tokenizer()
    reply = tokenizer.encode(text, add_dummy_prefix=False) + [EOS] * end

    def script(held: list[int]) -> int:
        # How much of the reply the session ends with already: the longest that matches.
        for done in range(min(len(reply), len(held)), 0, -1):
            if held[-done:] == reply[:done]:
                return reply[done % len(reply)]
        return reply[0]

    return script


SMALL = small_tokenizer()
GREEDY = SamplingParams(temperature=0)
NANO: dict[str, Any] = {"general.name": "pygrok nano"}


def echo(held: list[int]) -> int:
    """Replies " You said " and the user's last words, then goes on to speak for the user."""
    before, _, made = SMALL.decode(held).rpartition("Assistant:")
    asked = before.rpartition("User: ")[2].strip()
    whole = f" You said {asked}.\nUser: and"
    assert whole.startswith(made), (whole, made)
    return SMALL.encode(whole[len(made) :], add_dummy_prefix=False)[0]


def echo_chat(*, context: int = 4096, **settings: Any) -> tuple[Chat, FakeEngine]:
    model, engine = fake_model(echo, NANO, context=context)
    return Chat(model, sampling=GREEDY, **settings), engine


def say(chat: Chat, text: str, **settings: Any) -> str:
    return "".join(chunk.text for chunk in chat.send(text, **settings))


def held_text(chat: Chat) -> str:
    return SMALL.decode(chat._session.ids)
