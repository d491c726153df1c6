"""Muon in float32: torch.optim.Muon computes in bfloat16, which few CPUs have arithmetic for.

https://kellerjordan.github.io/posts/muon/, with the step's size as in https://arxiv.org/abs/2502.16982.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For the matrices within a network: a step is the orthogonal matrix nearest to its momentum.

    Args:
        weights: 2-D each.
        rounds: Of the Newton-Schulz iteration.
        weight_decay: As in AdamW.
    """

    def __init__(self, weights: Iterable[Tensor], *, rounds: int, weight_decay: float) -> None:
        super().__init__(weights, {"lr": 0.0, "rounds": rounds, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Do a step."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                alike.setdefault(weight.shape, []).append(weight)
            for shape, weights in alike.items():
                update = orthogonalize(self._momenta(weights), group["rounds"])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for weight, part in zip(weights, update, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(part, alpha=rate)

    def _momenta(self, weights: list[Tensor]) -> Tensor:
        """Nesterov's, (weights, rows, columns)."""
        momenta = []
        for weight in weights:
            assert weight.grad is not None
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - _MOMENTUM)
            momenta.append(weight.grad.lerp(momentum, _MOMENTUM))
        return torch.stack(momenta)


def orthogonalize(matrices: Tensor, rounds: int) -> Tensor:
    """Bring the singular values near 1 by Newton-Schulz iteration: (matrices, rows, columns)."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT, rounds).mT
    a, b, c = _COEFFICIENTS
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
