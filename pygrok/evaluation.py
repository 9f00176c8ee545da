"""How well a model predicts a text, and how far its predictions are from another model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import ModelError
from pygrok.ids import TokenIds, check_ids

if TYPE_CHECKING:
    from pygrok.model import Model

__all__ = [
    "Divergence",
    "Reference",
    "divergence_of",
    "kl_divergence",
    "logit_rows",
    "perplexity_of",
    "reference_log_probabilities",
    "window_and_stride",
    "windows",
]

_PIECE_BYTES = 32 << 20  # of logits held at once
Progress = Callable[[int], None]


class Reference(Protocol):
    """Log-probabilities of another model for the same tokens, read piece by piece."""

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Float32 [end - begin, vocab]: row i predicts token i + 1 of the text, given its window."""


@dataclass(frozen=True)
class Divergence:
    """Distance of a model's predictions from a reference's over the scored tokens of a text, in nats.

    Kullback-Leibler divergence KL(reference || model) of each token's distribution; standard errors are those of means
    over tokens taken as independent.
    """

    tokens: int
    mean: float
    standard_error: float
    median: float
    percentile_90: float
    percentile_95: float
    percentile_99: float
    percentile_99_9: float
    maximum: float
    top1_agreement: float
    """Share of tokens for which both models find the same token likeliest."""
    top1_standard_error: float
    probability_difference_mean: float
    """Of the probability of the token that follows, model - reference."""
    probability_difference_rms: float
    mean_log_loss: float
    perplexity: float
    perplexity_standard_error: float
    reference_perplexity: float
    perplexity_ratio: float
    """perplexity / reference_perplexity."""
    perplexity_ratio_standard_error: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return asdict(self)


def window_and_stride(context: int, window: int | None, stride: int | None) -> tuple[int, int]:
    """Tokens per window and from one to the next; None: 512 or the context, and half a window.

    Raises ValueError if a window exceeds the context or tokens between windows would go unscored.
    """
    width = min(512, context) if window is None else window
    if not 2 <= width <= context:
        raise ValueError(f"window {width} must be 2 to {context}, the context")
    step = max(1, width // 2) if stride is None else stride
    if not 1 <= step < width:
        raise ValueError(
            f"stride {step} must be 1 to {width - 1}, below the window, or tokens would go unscored"
        )
    return width, step


def windows(count: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first) for each window of `count` tokens: those from `first` on are new and get scored.

    Every token but the very first is scored exactly once; after the first window each scored token has at
    least `window - stride` tokens before it.
    """
    scored = 1
    start = 0
    while scored < count:
        end = min(start + window, count)
        yield start, end, scored
        scored = end
        start += stride


def perplexity_of(losses: NDArray[np.float64]) -> tuple[float, float]:
    """exp of the mean of -log p [T], and its standard error (that of the mean, carried through exp)."""
    value = _exp(float(losses.mean()))
    return value, value * _error_of_mean(losses)


def logit_rows(
    model: Model, ids: TokenIds, *, window: int | None = None, stride: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first, logits [n, vocab]) for runs of tokens: row i predicts ids[first + i] within its window.

    Runs come in order and cover ids[1:]; no more than 32 MiB of logits are made at once.

    Raises ValueError (fewer than 2 ids, window, stride), MemoryLimit, Cancelled.
    """
    array = check_ids(ids, model.config.vocab)
    if len(array) < 2:
        raise ValueError(f"ids has {len(array)} tokens: scoring needs at least 2")
    width, step = window_and_stride(model.context, window, stride)
    piece = max(1, _PIECE_BYTES // (4 * model.config.vocab))
    for start, end, first in windows(len(array), width, step):
        session = model.session()
        if first - 1 > start:
            model.prefill(session, array[start : first - 1])
        for at in range(first, end, piece):
            yield at, model.logits(array[at - 1 : min(at + piece, end) - 1], session)


def reference_log_probabilities(
    model: Model, ids: TokenIds, *, window: int | None = None, stride: int | None = None
) -> NDArray[np.float32]:
    """What `kl_divergence` compares with, in memory: float32 [T-1, vocab], natural logarithms.

    Raises as `logit_rows`; ModelError for logits that are not numbers.
    """
    result = np.empty((max(0, len(ids) - 1), model.config.vocab), np.float32)
    for first, logits in logit_rows(model, ids, window=window, stride=stride):
        shifted, total = _shift(logits)
        _finite(total, first)
        np.subtract(
            shifted,
            np.log(total)[:, None],
            out=result[first - 1 : first - 1 + len(logits)],
            casting="same_kind",
        )
    return result


def kl_divergence(
    model: Model,
    ids: TokenIds,
    reference: NDArray[np.float32] | Reference,
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """Compare a model with a reference on the tokens that `logit_rows` scores.

    reference: what `reference_log_probabilities` returned for the same ids, window and stride, or an opened
        `pygrok.reference_file.ReferenceFile`. Rows need not add up to 1: they are normalised.
    progress: called with the tokens done.

    Memory does not grow with T x vocab beyond the reference's own.

    Raises ValueError (a reference of other shape; as `logit_rows`), ModelError for logits that are not numbers.
    """
    count, vocab = len(ids) - 1, model.config.vocab
    if isinstance(reference, np.ndarray) and reference.shape != (count, vocab):
        raise ValueError(f"reference has shape {list(reference.shape)}, expected {[count, vocab]}")
    targets = check_ids(ids, vocab)
    tally = _Tally()
    for first, logits in logit_rows(model, ids, window=window, stride=stride):
        begin, end = first - 1, first - 1 + len(logits)
        held = reference[begin:end] if isinstance(reference, np.ndarray) else reference.rows(begin, end)
        tally.add(held, logits, targets[first : first + len(logits)], first)
        if progress is not None:
            progress(end)
    return tally.result()


def divergence_of(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int32]
) -> Divergence:
    """Of logits [n, vocab] from a reference's, whose rows need not be normalised; targets [n]: what followed.

    Raises ModelError for logits that are not numbers.
    """
    tally = _Tally()
    tally.add(reference, logits, targets, 1)
    return tally.result()


def _shift(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows minus their maximum, and the sums of exponentials of that."""
    with np.errstate(invalid="ignore"):  # inf - inf; found by the caller through the sum
        shifted = rows - rows.max(axis=1, keepdims=True)
    return shifted, np.exp(shifted).sum(axis=1, dtype=np.float64)


def _finite(values: NDArray[np.float64], first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ModelError(
            f"the logits of token {first + int(bad[0])} are not numbers: the model's weights are damaged"
        )


class _Tally:
    """Figures of every scored token."""

    def __init__(self) -> None:
        self._kl: list[NDArray[np.float64]] = []
        self._same: list[NDArray[np.bool_]] = []
        self._losses: list[NDArray[np.float64]] = []  # [2, n]: reference, model

    def add(
        self, held: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int32], first: int
    ) -> None:
        """Rows [n, vocab] of both models for the same tokens."""
        # Shifted by their maxima, likely tokens have values near 0, where float32 is exact enough for a
        # divergence of 1e-7; the same rounded values go into sums and differences, so that errors stay second order.
        a, total_a = _shift(held)
        b, total_b = _shift(logits)
        _finite(total_a, first)
        _finite(total_b, first)
        p = np.exp(a)
        with np.errstate(invalid="ignore"):  # 0 * inf, where both models rule a token out
            kl = (p * (a - b)).sum(axis=1, dtype=np.float64) / total_a + np.log(total_b) - np.log(total_a)
        _finite(kl, first)
        self._kl.append(np.maximum(kl, 0.0))
        self._same.append(a.argmax(axis=1) == b.argmax(axis=1))
        index = np.arange(len(targets))
        self._losses.append(
            np.stack([np.log(total_a) - a[index, targets], np.log(total_b) - b[index, targets]])
        )

    def result(self) -> Divergence:
        """Statistics over all tokens."""
        kl = np.concatenate(self._kl)
        same = np.concatenate(self._same)
        theirs, ours = np.concatenate(self._losses, axis=1)
        count = len(kl)
        agreement = float(same.mean())
        difference = np.exp(-ours) - np.exp(-theirs)
        ratio = _exp(float((ours - theirs).mean()))
        median, *tail = (float(q) for q in np.quantile(kl, [0.5, 0.9, 0.95, 0.99, 0.999]))
        perplexity, perplexity_error = perplexity_of(ours)
        return Divergence(
            tokens=count,
            mean=float(kl.mean()),
            standard_error=_error_of_mean(kl),
            median=median,
            percentile_90=tail[0],
            percentile_95=tail[1],
            percentile_99=tail[2],
            percentile_99_9=tail[3],
            maximum=float(kl.max()),
            top1_agreement=agreement,
            top1_standard_error=math.sqrt(agreement * (1 - agreement) / count),
            probability_difference_mean=float(difference.mean()),
            probability_difference_rms=math.sqrt(float((difference**2).mean())),
            mean_log_loss=float(ours.mean()),
            perplexity=perplexity,
            perplexity_standard_error=perplexity_error,
            reference_perplexity=perplexity_of(theirs)[0],
            perplexity_ratio=ratio,
            perplexity_ratio_standard_error=ratio * _error_of_mean(ours - theirs),
        )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # beyond what a float holds


def _error_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else 0.0
