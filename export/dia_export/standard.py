"""Dia's and DAC's operations in ONNX's standard operators, for providers that know no others.

The operators are those that onnxruntime's CoreML provider runs as an MLProgram, by its own list and
by its sources: a lookup at an index that is only known when the graph runs is not among them
(GatherND's must be a constant), nor are comparisons, Expand, ScatterElements and RMSNormalization.
So whole numbers are float32, exact below 2**24; a lookup is a product with a one-hot matrix; and
masks are clipped differences. What is left of shape arithmetic is folded when the shapes are fixed.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.onnx.ops import symbolic

from dia_models.kernels import Kernels, Step, squared_distance

_FAR = 1e30
"""Instead of infinity, which times 0 is no number."""


class StandardKernels(Kernels):
    """Kernels that trace to standard operators, most of them as the eager ones do."""

    def as_index(self, numbers: Tensor) -> Tensor:
        """Whole numbers as float32."""
        return numbers.float()

    def lookup(self, index: Tensor, table: Tensor) -> Tensor:
        """A one-hot row for each index, times the table: exact, as all other terms are 0."""
        return one_hot(index, table.shape[0]).to(table.dtype) @ table

    def length(self, x: Tensor) -> Tensor:
        """One node: tracing the size itself would take it for 2 or more."""
        axis = x.dim() - 1
        return symbolic(
            "Shape", (x,), {"start": axis, "end": axis + 1}, dtype=torch.int64, shape=(1,)
        )

    def crop(self, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """One node, whose size only the run tells."""
        stop = self.length(x) - after
        size = cast("int", (stop - before).sum().item())
        torch._check(size >= 2)  # noqa: SLF001 - public, and what tracing takes every size for
        axis = torch.tensor([x.dim() - 1])
        return symbolic(
            "Slice", (x, before, stop, axis), dtype=x.dtype, shape=(*x.shape[:-1], size)
        )

    def embed_channels(self, tokens: Tensor, table: Tensor, offsets: Tensor) -> Tensor:
        """One product: the channels' one-hot rows, side by side, are one row with a 1 for each."""
        hits = one_hot(tokens, table.shape[0] // offsets.shape[0]).flatten(-2)
        return hits.to(table.dtype) @ table

    def causal_mask(self, positions: Tensor, cache: int, groups: int) -> Tensor:
        """-1e30 for each position in the future."""
        repeated = positions.unsqueeze(-1) + torch.zeros(groups)  # each group of a step alike
        repeated = repeated.reshape(positions.shape[0], 1, -1, 1)
        return (repeated - torch.arange(cache)).clamp(-1, 0) * _FAR

    def key_mask(self, lengths: Tensor, positions: int, steps: int, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        """-1e30 for each position after the last."""
        last = lengths.float()[:, None, None, None] - 1
        return (last - torch.arange(positions)).clamp(-1, 0) * _FAR

    def write(self, past: Tensor, new: Tensor, step: Step) -> Tensor:
        """What was there times 1 or 0, plus what is new times 0 or 1.

        The past may be the memory of the result: it is read by one node, an elementwise product
        into memory of its own, before another writes the result. It must be finite everywhere.
        """
        hits = one_hot(step.positions, past.shape[2])  # (rows, steps, cache)
        kept = (1 - hits.sum(1))[:, None, :, None]
        placed = hits.transpose(1, 2).unsqueeze(1).to(past.dtype) @ new.to(past.dtype)
        return past * kept.to(past.dtype) + placed

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Written out, in float32."""
        wide = x.float()
        scale = torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)
        return (wide / scale * weight.float()).to(x.dtype)

    def unconditional_values(self, values: Tensor, rows: int, steps: int) -> Sequence[Tensor]:  # noqa: ARG002
        """As they are: Expand is not among the operators."""
        return [values[i : i + 1] for i in range(len(values))]

    def guided_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, unconditional: Tensor
    ) -> Tensor:
        """The rows divided by the number of texts; a sum with zeros in place of Expand."""
        first, others = split_rows(query, mask.shape[0])
        mixed = self.attention(first, key, value, mask)
        return torch.cat([mixed, others * 0 + unconditional])

    def nearest(self, queries: Tensor, codebook: Tensor) -> Tensor:
        """The least code of the least distance, without ArgMin and ArgMax.

        MLProgram lacks the one, and has the other only where one node alone reads it.
        """
        codes = codebook.shape[0]
        nearness = 0 - squared_distance(_unit(queries), _unit(codebook))
        behind = (nearness.amax(-1, keepdim=True) - nearness) * _FAR  # 0 at the nearest alone
        countdown = codes - torch.arange(codes).float()
        return codes - ((1 - behind.clamp(0, 1)) * countdown).amax(-1)


def one_hot(index: Tensor, size: int) -> Tensor:
    """float32, (..., size): 1 at each index of (...), which may have any dtype, and 0 elsewhere."""
    distance = index.float().unsqueeze(-1) - torch.arange(size)
    return (1 - distance * distance).relu()


def split_rows(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` rows of (rows, steps, width), and the others.

    As symbolic nodes, because tracing a slice would tie the two sizes together.
    """
    rows, *rest = x.shape
    start, stop, end = (
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([count]),
        torch.tensor([rows]),
    )
    first = symbolic("Slice", (x, start, stop, start), dtype=x.dtype, shape=(count, *rest))
    others = symbolic("Slice", (x, stop, end, start), dtype=x.dtype, shape=(rows - count, *rest))
    return first, others


def _unit(vectors: Tensor) -> Tensor:
    """Vectors over their length, as ``torch.nn.functional.normalize`` has it."""
    return vectors / torch.sqrt((vectors * vectors).sum(-1, keepdim=True)).clamp_min(1e-12)
