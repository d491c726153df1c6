"""descript's own codec class, without descript-audiotools.

descript-audio-codec requires descript-audiotools, which pins a protobuf that onnx can't live
with. The codec's network uses next to nothing of it, so a few names stand in for it here:
`pip install --no-deps descript-audio-codec einops` is all that the tests need.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import pytest
from torch import nn


class _BaseModel(nn.Module):
    INTERN: ClassVar[list[str]] = []
    EXTERN: ClassVar[list[str]] = []


class _AudioSignal:
    """Only named in annotations and in file handling."""


class _STFTParams(NamedTuple):
    window_length: int = 0


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module


def descript_dac_class() -> Any:
    """The class `dac.model.dac.DAC`; skips the test where descript-audio-codec isn't installed."""
    if any(importlib.util.find_spec(name) is None for name in ("dac", "einops", "tqdm")):
        pytest.skip("descript-audio-codec (--no-deps), einops and tqdm are not installed")
    ml = _module("audiotools.ml", BaseModel=_BaseModel, Accelerator=object)
    stand_ins = {
        "argbind": _module("argbind", bind=lambda *_, **__: lambda function: function),
        "audiotools": _module(
            "audiotools", ml=ml, AudioSignal=_AudioSignal, STFTParams=_STFTParams
        ),
        "audiotools.ml": ml,
    }
    with mock.patch.dict(sys.modules, stand_ins):
        from dac.model.dac import DAC  # noqa: PLC0415 - it needs the stand-ins
    return DAC
