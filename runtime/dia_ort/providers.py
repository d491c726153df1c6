"""onnxruntime, its execution providers, and sessions on them. No other module imports it."""

import importlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dia_ort.errors import ArtifactError, InvalidConfigError, ProviderError
from dia_ort.graphs import GraphSpec, TensorSpec

logger = logging.getLogger(__name__)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}

_REMEDIES = {
    "cpu": "pip install 'dia-ort[cpu]'",
    "cuda": "pip uninstall onnxruntime, then pip install 'dia-ort[gpu]', with an NVIDIA driver",
    "coreml": "pip install 'dia-ort[cpu]' on macOS",
}

TENSOR_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int8": "tensor(int8)",
}
"""onnxruntime's names of the declared dtypes."""


MINIMUM_VERSION = (1, 30)
"""Of onnxruntime: 1.27 and older do not know an 8-bit cache on the CPU, 1.29 rounds otherwise."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider that is there.

    Attributes:
        name: ``"cpu"``, ``"cuda"`` or ``"coreml"``.
        device: Where its tensors live, as onnxruntime names it.
    """

    name: str
    device: str

    @property
    def half_precision(self) -> bool:
        """Whether it has kernels for graphs that compute in half precision."""
        return self.name == "cuda"


@cache
def onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        ProviderError: It is not installed, or too old; the message says what to install.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels report home otherwise
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ProviderError(
            "onnxruntime is not installed, and dia-ort cannot speak without it: "
            "pip install 'dia-ort[cpu]', or 'dia-ort[gpu]' on a machine with an NVIDIA GPU. "
            f"({error})"
        ) from error
    if tuple(map(int, module.__version__.split(".")[:2])) < MINIMUM_VERSION:
        raise ProviderError(
            f"onnxruntime {module.__version__} is too old: it would compute noise from an 8-bit "
            f"cache. Upgrade it: pip install -U 'onnxruntime>={_dotted(MINIMUM_VERSION)}'."
        )
    return module


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def available_providers() -> list[str]:
    """Names of dia-ort's providers that this onnxruntime was built with."""
    built = onnxruntime().get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in built]


def resolve_provider(name: str = "auto") -> Provider:
    """Find a provider; ``"auto"`` takes CUDA where onnxruntime has it, else the CPU.

    Raises:
        InvalidConfigError: There is no such name.
        ProviderError: This onnxruntime does not have that provider.
    """
    if name not in {"auto", *PROVIDERS}:
        raise InvalidConfigError(f"provider is {name!r}: take one of auto, {', '.join(PROVIDERS)}.")
    available = available_providers()
    if name == "auto":
        name = "cuda" if "cuda" in available else "cpu"
        logger.info("provider auto takes %s", name)
    if name not in available:
        raise ProviderError(
            f"the {name} provider is not in this onnxruntime (it has {', '.join(available)}). "
            f"To get it: {_REMEDIES[name]}."
        )
    return Provider(name, "cuda" if name == "cuda" else "cpu")


def open_session(
    path: Path,
    spec: GraphSpec,
    provider: Provider,
    threads: int | None,
    *,
    prepack: bool = True,
) -> Any:
    """Load a graph and hold its interface against the declaration.

    Args:
        path: The ONNX file.
        spec: What it must look like.
        provider: Where to run it.
        threads: For one operator, on the CPU; None leaves it to onnxruntime (all physical cores).
        prepack: Whether to bring the weights into the kernels' own order: faster to run, slower to
            load, and in memory instead of in the file's pages.

    Raises:
        ArtifactError: The file does not load, or has other inputs or outputs than declared.
        ProviderError: The provider does not start; there is no quiet fall-back to the CPU.
    """
    ort, options = onnxruntime(), session_options(threads, prepack=prepack)
    full = PROVIDERS[provider.name]
    if provider.name == "cuda":
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(
            str(path), options, providers=list(dict.fromkeys([full, PROVIDERS["cpu"]]))
        )
    except Exception as error:  # onnxruntime's own classes share no useful base
        raise ArtifactError(
            f"{path} does not load: {error}. Check the files with `dia-ort verify`, or export the "
            "model again."
        ) from error
    session.disable_fallback()
    if full not in session.get_providers():
        raise ProviderError(
            f"the {provider.name} provider does not start on this machine; `dia-ort doctor` says "
            f"what is missing. To get it: {_REMEDIES[provider.name]}."
        )
    _check_interface(path, "input", session.get_inputs(), spec.inputs)
    _check_interface(path, "output", session.get_outputs(), spec.outputs)
    return session


def session_options(threads: int | None = None, *, prepack: bool = True) -> Any:
    """The options of onnxruntime for any of our graphs; arguments as in :func:`open_session`."""
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 3
    # On all cores: the full-size int8 decoder loads in 0.8 s instead of 2.5.
    options.add_session_config_entry("session.prepack.enable_parallel", "1")
    if products_overflow():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


@cache
def products_overflow() -> bool:
    """Whether onnxruntime's fastest products of 8-bit numbers are wrong on this CPU.

    x86 without VNNI adds them in pairs in 16 bits, which saturate. There, sessions take the slower
    kernels that cannot.
    """
    session = onnxruntime().InferenceSession(
        str(Path(__file__).with_name("overflow_probe.onnx")), providers=[PROVIDERS["cpu"]]
    )
    x = np.full(session.get_inputs()[0].shape, 255, np.uint8)
    return bool((session.run(None, {"x": x})[0] != x.size * 255 * 127).any())


def _check_interface(
    path: Path, kind: str, found: list[Any], declared: tuple[TensorSpec, ...]
) -> None:
    have = [(f.name, f.type, tuple(f.shape)) for f in found]
    want = [(t.name, TENSOR_TYPES[t.dtype], t.axes) for t in declared]
    for mine, theirs in zip(have, want, strict=False):
        if mine != theirs:
            raise ArtifactError(
                f"{path} is not the graph of its manifest: its {kind} is {mine}, not {theirs}. "
                "Files of two exports were mixed; export the model again."
            )
    if len(have) != len(want):
        raise ArtifactError(
            f"{path} is not the graph of its manifest: it has {len(have)} {kind}s, "
            f"not {len(want)}. Export the model again."
        )
