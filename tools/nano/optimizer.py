"""Muon for the matrices and AdamW for the rest.

Muon replaces the momentum of a matrix by the nearest orthogonal matrix before the step, so that all
directions learn at the same rate; small models reach a loss with markedly fewer tokens than under AdamW
alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from model import Nano
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration, chosen for speed: singular values end between about
# 0.7 and 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix in ``[count, rows, columns]``, rows <= columns, towards one."""
    a, b, c = QUINTIC
    x = matrices.bfloat16()
    x = x / (x.float().flatten(1).norm(dim=1)[:, None, None].bfloat16() + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per matrix; a 3-D parameter is a stack of matrices."""

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.05
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov
                update = update if update.dim() == 3 else update[None]
                update = update if update.shape[1] <= update.shape[2] else update.mT
                stacks[tuple(update.shape[1:])].append((parameter, update))
            for shape, members in stacks.items():
                # One batched iteration for all matrices of a shape. The factor gives a step the size AdamW's
                # has.
                steps = orthogonalised(torch.cat([update for _, update in members])) * (
                    0.2 * max(shape) ** 0.5
                )
                for (parameter, _), step in zip(
                    members, steps.split([u.shape[0] for _, u in members]), strict=True
                ):
                    step = step if step.shape[1:] == parameter.shape[-2:] else step.mT
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.sub_(step.reshape(parameter.shape), alpha=group["lr"])


def optimizers(model: Nano, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for attention and experts; AdamW for embeddings, norms and routers."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.dim() < 2 or "embeddings" in name or "router" in name
        (others if plain else matrices).append(parameter)
    adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    made: list[torch.optim.Optimizer] = [Muon(matrices, muon_lr), adam]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made
