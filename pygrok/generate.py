"""Continuing a text, on three levels: `steps` gives ids, `stream` chunks of text, `generate` the whole."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from pygrok.errors import ContextOverflow
from pygrok.ids import TokenIds, check_ids
from pygrok.sampling import Sampler, SamplingParams
from pygrok.stopping import StopStrings

if TYPE_CHECKING:
    from pygrok.model import Model
    from pygrok.session import Session

__all__ = ["Completion", "FinishReason", "GenerationChunk", "Timings", "generate", "steps", "stream"]

FinishReason = Literal["stop", "length", "eos", "context"]
"""A stop string was met; max_tokens were made; the model ended the text; the context is full."""

_PREFILL_PIECE = 512  # ids a call: how often progress is told


@dataclass(frozen=True)
class Timings:
    """Tokens and seconds so far."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    tokens: int = 0
    decode_seconds: float = 0.0
    """From the end of the prefill; the first token costs no forward pass."""

    @property
    def prefill_tokens_per_second(self) -> float:
        """0 before anything was measured."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Forward passes a second, one less than tokens; 0 before anything was measured."""
        return (self.tokens - 1) / self.decode_seconds if self.tokens > 1 and self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class GenerationChunk:
    """What one more token adds."""

    text: str
    """Whole UTF-8, free of stop strings; "" while a character or a possible stop string is held back."""
    ids: tuple[int, ...]
    """The token, or none if max_tokens is 0."""
    finish_reason: FinishReason | None
    """None but in the last chunk."""
    timings: Timings
    notice: str | None = None
    """Something the reader should be told, such as turns that a chat dropped."""


@dataclass(frozen=True)
class Completion:
    """A finished generation."""

    text: str
    ids: list[int]
    """Every token made, those of eos and of a stop string included."""
    prompt_ids: list[int]
    finish_reason: FinishReason
    timings: Timings


def steps(
    session: Session,
    ids: TokenIds,
    sampler: Sampler,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[int, None, None]:
    """Feed ids to the session and yield one sampled id after the other, until the context is full.

    An id is fed when the next one is asked for: the session always holds all ids but the last one yielded.
    Raises as `Session.feed`; before anything is fed if ids do not fit.
    """
    model = session.model
    array = check_ids(ids, model.config.vocab)
    if not array.size:
        raise ValueError("the prompt is empty: give at least one token")
    if session.position + len(array) > model.context:
        raise ContextOverflow(
            f"{len(array)} tokens at position {session.position} do not fit the context of {model.context}: "
            "shorten the prompt or load the model with a larger context"
        )
    # Rows of the embedding beyond the tokenizer's pieces are padding that no text can show.
    limit = model.tokenizer.vocab_size if model.has_tokenizer else model.config.vocab
    last = (len(array) - 1) // _PREFILL_PIECE * _PREFILL_PIECE
    for start in range(0, last, _PREFILL_PIECE):
        model.prefill(session, array[start : start + _PREFILL_PIECE])
        if progress is not None:
            progress(start + _PREFILL_PIECE, len(array))
    logits = session.feed(array[last:])
    if progress is not None:
        progress(len(array), len(array))
    while True:
        token = sampler.sample(logits[:limit], session._core.ids)
        yield token
        if session.position >= model.context:
            return
        logits = session.feed([token])


def stream(
    model: Model,
    prompt: str | TokenIds,
    sampling: SamplingParams | Sampler | None = None,
    *,
    max_tokens: int | None = 256,
    stop: str | Sequence[str] | None = None,
    session: Session | None = None,
    ignore_eos: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[GenerationChunk, None, None]:
    """Continue a prompt; yield a chunk for each token, the last with a finish_reason.

    prompt: text, or ids (the only choice for a model without tokenizer; chunks then have no text). An empty
        text starts from bos. sampling: None is `SamplingParams()`; a Sampler goes on with its random stream.
    max_tokens: None goes on until the model ends or the context is full. 0 only feeds the prompt.
    stop: texts before which to end; they may span tokens. ignore_eos: go on after an end token.
    session: continue this one, appending to what it holds (a text then gets no leading space of its own); it
        ends with all ids but the last one. progress: called with (prompt tokens fed, prompt tokens).
    The arguments are checked at the call, the work is done as chunks are taken. An exception, Ctrl-C or
    leaving the loop early keeps the session usable: it holds the tokens fed so far.
    Raises ValueError, ModelError (text without tokenizer), ContextOverflow, MemoryLimit, Cancelled.
    """
    if max_tokens is not None and (
        isinstance(max_tokens, bool) or not isinstance(max_tokens, int | np.integer) or max_tokens < 0
    ):
        raise ValueError(f"max_tokens is {max_tokens!r}: it must be a whole number, 0 or above, or None")
    if session is not None and session.model is not model:
        raise ValueError("the session belongs to another model")
    stops = StopStrings(stop)
    if stops or isinstance(prompt, str):
        model.tokenizer  # noqa: B018  (a model without one says so here)
    session = model.session() if session is None else session
    ids = _prompt_ids(model, prompt, session.position)
    continuing = not isinstance(prompt, str) or prompt != ""
    sampler = sampling if isinstance(sampling, Sampler) else Sampler(sampling or SamplingParams())
    return _chunks(session, ids, sampler, max_tokens, stops, ignore_eos, continuing, progress)


def _chunks(
    session: Session,
    ids: list[int],
    sampler: Sampler,
    max_tokens: int | None,
    stops: StopStrings,
    ignore_eos: bool,
    continuing: bool,
    progress: Callable[[int, int], None] | None,
) -> Generator[GenerationChunk, None, None]:
    model = session.model
    tokenizer = model.tokenizer if model.has_tokenizer else None
    ends = tokenizer.end_ids if tokenizer is not None and not ignore_eos else frozenset()
    detokenizer = tokenizer.detokenizer(continuing=continuing) if tokenizer is not None else None
    started = time.perf_counter()
    tokens = steps(session, ids, sampler, progress=progress)
    token = next(tokens)
    ready = time.perf_counter()
    timings = Timings(prompt_tokens=len(ids), prefill_seconds=ready - started)
    if max_tokens == 0:
        yield GenerationChunk("", (), "length", timings)
        return
    for count in itertools.count(1):
        text = ""
        reason: FinishReason | None = None
        if token in ends:
            reason = "eos"
        elif detokenizer is not None:
            text, met = stops.push(detokenizer.feed(token))
            if met:
                reason = "stop"
        if reason is None and count == max_tokens:
            reason = "length"
        if reason is None and session.position >= model.context:
            reason = "context"
        if reason not in (None, "stop") and detokenizer is not None:
            rest, met = stops.push(detokenizer.finish())
            text += rest if met else rest + stops.finish()
            reason = "stop" if met else reason
        timings = replace(timings, tokens=count, decode_seconds=time.perf_counter() - ready)
        yield GenerationChunk(text, (token,), reason, timings)
        if reason is not None:
            return
        token = next(tokens)


def generate(
    model: Model,
    prompt: str | TokenIds,
    sampling: SamplingParams | Sampler | None = None,
    *,
    max_tokens: int | None = 256,
    stop: str | Sequence[str] | None = None,
    session: Session | None = None,
    ignore_eos: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Completion:
    """Continue a prompt and return the whole. Arguments and errors are those of `stream`."""
    session = model.session() if session is None else session
    before = session.position
    chunks = list(
        stream(
            model,
            prompt,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            session=session,
            ignore_eos=ignore_eos,
            progress=progress,
        )
    )
    last = chunks[-1]
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        ids=[token for chunk in chunks for token in chunk.ids],
        prompt_ids=list(session.ids[before : before + last.timings.prompt_tokens]),
        finish_reason=cast(FinishReason, last.finish_reason),
        timings=last.timings,
    )


def _prompt_ids(model: Model, prompt: str | TokenIds, position: int) -> list[int]:
    if not isinstance(prompt, str):
        ids: list[int] = check_ids(prompt, model.config.vocab, name="prompt").tolist()
    else:
        tokenizer = model.tokenizer
        ids = tokenizer.encode(prompt, add_dummy_prefix=position == 0)
        bos = tokenizer.bos_id
        if bos is not None and position == 0 and (tokenizer.add_bos or not ids):
            ids = [bos, *ids]
    if not ids:
        raise ValueError("the prompt is empty: give at least one token")
    return ids
