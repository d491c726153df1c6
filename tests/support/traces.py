"""Traces of graphs, each made once: tracing takes most of an export's time, and dtypes share it."""

import copy
import logging

import pytest

from dia_export import exporter
from dia_export.trace import trace

logging.getLogger("torch.__trace").propagate = False  # thousands of lines for pytest to keep

_traced = {}


def trace_once(spec, module, *, hop_length):
    """A copy of the first trace."""
    key = (spec, hop_length, *describe(module))
    if key not in _traced:
        _traced[key] = trace(spec, module, hop_length=hop_length)
    model = _traced[key].clone()
    for value in model.graph.initializers.values():
        value.type = copy.copy(value.type)  # the clone shares it, and attaching weights changes it
    return model


def describe(module):
    """All that a trace depends on: shapes, constants, and settings such as the release's RoPE."""
    parameters = tuple((name, p.shape, p.dtype) for name, p in module.named_parameters())
    buffers = tuple((name, b.numpy().tobytes()) for name, b in module.named_buffers())
    settings = tuple(
        (name, key, value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str)
    )
    kernels = tuple(type(part.kernels) for part in module.modules() if hasattr(part, "kernels"))
    return parameters, buffers, settings, kernels


def export_quickly(*arguments, **options):
    """An export from traces that may be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", trace_once)
        return exporter.export(*arguments, **options)
