"""Choosing the next token: penalties, then xAI's order of temperature, mask and top-p.

Order: logit bias, penalties, temperature, top-k, min-p, top-p, one draw. The reference (`runners.py` of
https://github.com/xai-org/grok-1) divides by the temperature, masks, and filters by top-p last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import ModelError

__all__ = ["Sampler", "SamplingParams", "survivors"]


def _check(name: str, value: Any, low: float, high: float, rule: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} is {value!r}: it must be a number {rule}")
    if not low <= value <= high:  # false for NaN too
        raise ValueError(f"{name} is {value!r}: it must be {rule}")


def _check_whole(name: str, value: Any, low: int, rule: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} is {value!r}: it must be {rule}")


_TEMPERATURE_MIN = 1e-30  # below it the quotient would be 0 / 0
_FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Every field is checked; a value out of range raises ValueError naming it."""

    temperature: float = 0.7
    """Logits are divided by it; 0 takes the most likely token (the lowest id among equals)."""
    top_k: int = 0
    """Keep the k most likely tokens (and those equal to the last of them); 0 keeps all."""
    top_p: float = 0.95
    """Keep the smallest set of most likely tokens whose probability reaches top_p, in (0, 1]; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one, in [0, 1]; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Logits of tokens in the window are divided by it if positive, multiplied if negative; above 0."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token seen in the window."""
    frequency_penalty: float = 0.0
    """Taken off the logit of each token for every time it stands in the window."""
    penalty_window: int | None = 256
    """How many of the last tokens, prompt included, the penalties look at; None is all of them."""
    seed: int | None = None
    """The same seed gives the same text on the same model and settings; None draws fresh entropy."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids; -inf forbids one."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, _FLOAT_MAX, "0 or above")
        _check_whole("top_k", self.top_k, 0, "a whole number, 0 or above")
        _check("top_p", self.top_p, math.ulp(0.0), 1.0, "above 0 and at most 1")
        _check("min_p", self.min_p, 0.0, 1.0, "from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, math.ulp(0.0), _FLOAT_MAX, "above 0")
        _check("presence_penalty", self.presence_penalty, -_FLOAT_MAX, _FLOAT_MAX, "finite")
        _check("frequency_penalty", self.frequency_penalty, -_FLOAT_MAX, _FLOAT_MAX, "finite")
        if self.penalty_window is not None:
            _check_whole("penalty_window", self.penalty_window, 0, "a whole number, 0 or above, or None")
        if self.seed is not None:
            _check_whole("seed", self.seed, 0, "a whole number, 0 or above, or None")
        if not isinstance(self.logit_bias, Mapping):
            raise ValueError(f"logit_bias is {self.logit_bias!r}: it must map token ids to numbers")
        for token, bias in self.logit_bias.items():
            _check_whole("a key of logit_bias", token, 0, "a token id, 0 or above")
            _check(f"logit_bias[{token}]", bias, -math.inf, _FLOAT_MAX, "finite or -inf")
        # A copy: the caller's dict may change later.
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    def __hash__(self) -> int:
        return hash((self.temperature, self.top_k, self.top_p, self.min_p, self.seed))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `SamplingParams.from_dict` reads it back."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingParams:
        """The inverse of `to_dict`. Raises ValueError for unknown names or values out of range."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"{unknown[0]} is no sampling parameter: known are {', '.join(cls.__dataclass_fields__)}"
            )
        named = dict(values)
        if "logit_bias" in named:
            bias = named["logit_bias"]
            if not isinstance(bias, Mapping):
                raise ValueError(f"logit_bias is {bias!r}: it must map token ids to numbers")
            try:
                named["logit_bias"] = {int(token): value for token, value in bias.items()}
            except (TypeError, ValueError):
                raise ValueError(f"logit_bias has keys {list(bias)!r}: they must be token ids") from None
        return cls(**named)


def survivors(
    scaled: NDArray[np.float32], *, top_k: int = 0, min_p: float = 0.0, top_p: float = 1.0
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Filter logits that the temperature has divided; `scaled` float32 [V], not NaN, at least one above -inf.

    Returns the ids that survive top-k, min-p and top-p, ascending, and their weights, proportional to
    probability. Tokens as likely as the last one kept are kept too.
    """
    top = scaled.max()
    # None for "all ids" spares the common case a pass over the vocabulary for each filter.
    keep: NDArray[np.intp] | None = None
    values = scaled
    if 0 < top_k < len(values):
        last = np.partition(values, len(values) - top_k)[len(values) - top_k]
        keep = np.flatnonzero(values >= last)
        values = values[keep]
    weights = np.exp(values - top) if np.isfinite(top) else (values == top).astype(np.float32)
    floor = np.float32(min_p)
    if top_p < 1:
        candidates = weights[weights >= min_p] if min_p > 0 else weights
        total = float(candidates.sum(dtype=np.float64))
        # Tokens below this weigh less than the tail all together: the nucleus lies among the others.
        heavy = candidates[candidates >= (1 - top_p) * total / len(candidates)]
        descending = np.sort(heavy)[::-1]
        reached = int(np.searchsorted(np.cumsum(descending, dtype=np.float64), top_p * total))
        floor = max(floor, descending[min(reached, len(descending) - 1)])
    chosen = np.flatnonzero(weights >= floor if floor > 0 else weights > 0)
    return chosen if keep is None else keep[chosen], weights[chosen]


class Sampler:
    """Draws tokens with one random stream. Not shared between threads; one for each generation."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._random = np.random.default_rng(params.seed)

    def sample(self, logits: NDArray[np.float32], history: Sequence[int] | NDArray[np.int32] = ()) -> int:
        """Choose the next token.

        logits: float32 [V], left as they are. history: ids so far, prompt included, for the penalties.
        Raises ModelError when no token can be chosen (every logit is NaN or -inf), ValueError for a biased id
        outside the vocabulary.
        """
        params = self.params
        values = self._adjusted(logits, history)
        if not values.max() > -np.inf:
            if np.isnan(logits).any():
                raise ModelError("the logits are NaN: the model file is damaged or its weights overflow")
            raise ModelError("every token is forbidden: the logits or logit_bias leave nothing to choose")
        if params.temperature == 0:
            return int(values.argmax())
        with np.errstate(
            over="ignore"
        ):  # a tiny temperature may send the best to inf: then they are the choice
            if not np.isinf(values.max()):
                values -= values.max()
            values /= np.float32(max(params.temperature, _TEMPERATURE_MIN))
        ids, weights = survivors(values, top_k=params.top_k, min_p=params.min_p, top_p=params.top_p)
        cumulative = np.cumsum(weights, dtype=np.float64)
        drawn = self._random.random() * cumulative[-1]
        return int(ids[min(int(np.searchsorted(cumulative, drawn, side="right")), len(ids) - 1)])

    def _adjusted(
        self, logits: NDArray[np.float32], history: Sequence[int] | NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Bias and penalties applied; NaN becomes -inf."""
        params = self.params
        values = logits.astype(np.float32)
        values[np.isnan(values)] = -np.inf
        for token, bias in params.logit_bias.items():
            if token >= len(values):
                raise ValueError(f"logit_bias has id {token}: the vocabulary has ids 0 to {len(values) - 1}")
            values[token] += bias
        if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
            start = 0 if params.penalty_window is None else max(0, len(history) - params.penalty_window)
            recent = np.asarray(history[start:], dtype=np.int64)
            seen, counts = np.unique(recent[(recent >= 0) & (recent < len(values))], return_counts=True)
            at = values[seen]
            factor = params.repetition_penalty
            at = np.where(at > 0, at / factor, at * factor).astype(np.float32)
            values[seen] = at - (params.presence_penalty + params.frequency_penalty * counts)
        return values
