"""Fused soft-capped attention for training: ``attention.cpp`` as an operator, built on first use.

It is only a faster way to the same numbers: ``available()`` is False without AVX-512 or a compiler, and the
model then spells attention out in PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("attention.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-std=c++17")
HEAD = 16


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"nano-attention-{digest}.so"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(partial)], check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        partial.replace(target)
    return ctypes.CDLL(str(target))


def available(head_size: int) -> bool:
    return head_size == HEAD and library() is not None


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    # Threads of our own, with work in small pieces: a core taken by another process does not hold up the
    # rest.
    return ThreadPoolExecutor(torch.get_num_threads())


def over_heads(
    function: Callable[..., None], tensors: list[Tensor], sizes: tuple[int, int, int, int], cap: float
) -> None:
    """Call a kernel for each (batch row, key/value head)."""
    batch, length, heads, kv_heads = sizes
    shape = [ctypes.c_size_t(n) for n in (length, heads, kv_heads)]

    def row(index: int) -> None:
        pointers = [ctypes.c_void_p(t.data_ptr() + index * t.stride(0) * t.element_size()) for t in tensors]
        for head in range(kv_heads):
            function(*pointers, ctypes.c_size_t(head), *shape, ctypes.c_float(cap))

    list(pool().map(row, range(batch)))


@torch.library.custom_op("nano::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Causal attention of q ``[batch, length, heads, 16]`` over k, v ``[batch, length, kv_heads, 16]``.

    All float32. Returns the mixed values, like ``q``, and the reciprocal softmax sums, which the gradient
    needs.
    """
    loaded = library()
    assert loaded is not None, "ask available() first"
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, inverse = torch.empty_like(q), q.new_empty(q.shape[:3])
    over_heads(loaded.attention_forward, [q, k, v, out, inverse], (*q.shape[:3], k.shape[2]), cap)
    return out, inverse


@attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3])


@torch.library.custom_op("nano::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, inverse: Tensor, cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`attention` for q, k and v."""
    loaded = library()
    assert loaded is not None, "ask available() first"
    grad, q, k, v = grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tensors = [q, k, v, out, inverse, grad, dq, dk, dv]
    over_heads(loaded.attention_backward, tensors, (*q.shape[:3], k.shape[2]), cap)
    return dq, dk, dv


@attention_backward.register_fake
def _attention_backward_shape(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, inverse: Tensor, cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_for_backward(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, cap = inputs
    out, inverse = output
    ctx.cap = cap
    ctx.save_for_backward(q, k, v, out, inverse)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
    return (*attention_backward(grad, *ctx.saved_tensors, ctx.cap), None)


attention.register_autograd(_backward, setup_context=_save_for_backward)
