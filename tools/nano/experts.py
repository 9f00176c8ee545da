"""The expert layer's grouped products: one matrix product per expert over the tokens routed to it.

They are registered as opaque operators, so that ``torch.compile`` keeps a layer in one graph although the
number of tokens per expert changes from step to step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("nano::grouped_matmul", mutates_args=())
def grouped_matmul(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiply ``rows[begin:end]`` by ``weights[e]`` for each expert e.

    ``ends`` are the exclusive ends of the groups.
    """
    out = rows.new_empty(rows.shape[0], weights.shape[2])
    begin = 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        torch.mm(rows[begin:end], weight, out=out[begin:end])
        begin = end
    return out


@grouped_matmul.register_fake
def _grouped_matmul_shape(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[2])


@torch.library.custom_op("nano::grouped_matmul_backward", mutates_args=())
def grouped_matmul_backward(
    grad: Tensor, rows: Tensor, weights: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`grouped_matmul` for the rows and for the weights."""
    grad = grad.contiguous()
    row_grad, weight_grad = torch.empty_like(rows), torch.empty_like(weights)
    begin = 0
    for expert, end in enumerate(ends.tolist()):
        torch.mm(grad[begin:end], weights[expert].t(), out=row_grad[begin:end])
        torch.mm(rows[begin:end].t(), grad[begin:end], out=weight_grad[expert])
        begin = end
    return row_grad, weight_grad


@grouped_matmul_backward.register_fake
def _grouped_matmul_backward_shape(
    grad: Tensor, rows: Tensor, weights: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(weights)


def _save_for_backward(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    row_grad, weight_grad = grouped_matmul_backward(grad, *ctx.saved_tensors)
    return row_grad, weight_grad, None


grouped_matmul.register_autograd(_backward, setup_context=_save_for_backward)


class Permute(torch.autograd.Function):
    """Pick rows by a permutation of ``copies`` copies of each row.

    The plain gradient of indexing is a slow scattered addition. Since every row is used exactly ``copies``
    times, the gradient is the inverse permutation followed by a sum.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, order: Tensor, inverse: Tensor, copies: int) -> Tensor:
        context.save_for_backward(inverse)
        context.copies = copies
        return rows[order // copies]

    @staticmethod
    def backward(context: Any, grad: Tensor) -> Any:
        (inverse,) = context.saved_tensors
        back = grad[inverse]
        if context.copies > 1:
            back = back.view(-1, context.copies, back.shape[-1]).sum(1)
        return back, None, None, None
