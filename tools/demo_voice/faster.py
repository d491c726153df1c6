"""Training faster on a CPU: memory that stays, and parts of the codec that compute the same."""

import ctypes
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.dac.modeling_dac import Snake1d

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_memory() -> None:
    """Let glibc keep what tensors leave: new pages take longer than what is computed in them."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def make_faster(module: nn.Module) -> None:
    """Let every Snake and every dilated convolution in a module run the faster way.

    The Snakes' alphas stay as they were drawn: their gradient costs as much as the activation.
    """
    for part in module.modules():
        if isinstance(part, Snake1d):
            part.alpha.requires_grad_(False)  # noqa: FBT003
            part.forward = partial(_snake, part)  # type: ignore[method-assign]
        elif isinstance(part, nn.Conv1d) and part.dilation != (1,):
            part.forward = partial(_dilated, part)  # type: ignore[method-assign]


def _snake(part: Snake1d, x: Tensor) -> Tensor:
    y: Tensor = _FixedSnake.apply(x, part.alpha)
    return y


class _FixedSnake(torch.autograd.Function):
    """x + sin(alpha x)^2 / alpha, and its derivative 1 + sin(2 alpha x), as one function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        y = (x * alpha).sin_()
        return y.mul_(y).div_(alpha).add_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, alpha = ctx.saved_tensors
        return (x * (2 * alpha)).sin_().add_(1).mul_(grad), None


def _dilated(part: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of dilation d as a dense one over every d-th sample, d rows for each.

    oneDNN has no fast code for dilated convolutions with so much padding.
    """
    (d,), (padding,) = part.dilation, part.padding
    batch, _, length = x.shape
    parts = functional.pad(x, (0, -length % d)).unflatten(2, (-1, d)).permute(0, 3, 1, 2)
    y = functional.conv1d(parts.flatten(0, 1), part.weight, part.bias, padding=padding // d)
    return y.unflatten(0, (batch, d)).permute(0, 2, 3, 1).flatten(2)[..., :length]
