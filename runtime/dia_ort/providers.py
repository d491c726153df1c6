"""onnxruntime, its execution providers, and sessions on them. No other module imports it."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dia_ort.cuda import find_problem, preload_libraries
from dia_ort.errors import ArtifactError, InvalidConfigError, ProviderError
from dia_ort.graphs import GraphSpec, TensorSpec
from dia_ort.levels import UnsignedLevels

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"

_SUFFIX = "ExecutionProvider"
_REMEDIES = {
    "cpu": "pip install 'dia-ort[cpu]'",
    "cuda": "pip uninstall onnxruntime, then pip install 'dia-ort[gpu]', with an NVIDIA driver",
    "coreml": "pip install 'dia-ort[cpu]' on macOS",
    "webgpu": "pip install 'dia-ort[webgpu]'",
    "openvino": "pip install onnxruntime-ep-openvino",
}
_OTHERS = "install the onnxruntime that has it, in place of this one"

TESTED = ("cpu", "cuda")
"""Providers that dia-ort has been run on. Any other that is here is taken with a warning."""
_UNTESTED = {"webgpu": "dia-ort has been run on %s in software alone, on no GPU"}
_PLUGINS = {"webgpu": "onnxruntime_ep_webgpu", "openvino": "onnxruntime_ep_openvino"}
"""Providers that onnxruntime loads from packages of their own, and the modules of those."""
_NEEDS = {
    "webgpu": "a GPU with its driver, on Linux one for Vulkan (apt install libvulkan1; "
    "`vulkaninfo --summary` lists it), and in a container /dev/dri",
    "openvino": "a CPU, GPU or NPU of Intel's",
}
_PLUGIN_VERSION = (1, 32)
"""Of onnxruntime: with older ones, Python cannot bind a plugin's memory."""
_NO_DEVICE = "AzureExecutionProvider"  # it asks a server

_OPTIONS = {
    # Convolutions stay in float32, and searching for the fastest takes seconds for every length.
    "cuda": {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    },
}
_CAPTURE = "enable_cuda_graph"
_lock = threading.RLock()

# What onnxruntime leaves on the CPU on purpose: arithmetic with shapes.
_SHAPE_OPERATORS = {
    *("Add", "Cast", "Clip", "Concat", "Div", "Gather", "Mul", "Range"),
    *("Reshape", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"),
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
        name: ``"cpu"``, ``"cuda"``, ``"coreml"``, or onnxruntime's name of another one, in lower
            case and without "ExecutionProvider".
        device: Where the decoder's buffers live, as onnxruntime names it.
        options: For onnxruntime, by its names.
    """

    name: str
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def chain(self) -> list[Any]:
        """Itself, and the CPU for what it does not take, as sessions want them."""
        if self.name == "cpu":
            return [CPU]
        return [(_full_name(self.name), dict(self.options)), CPU]

    @property
    def place(self) -> tuple[str, int]:
        """The device as onnxruntime's bindings take it: its kind and its number."""
        return self.device, int(self.options.get("device_id", 0)) if self.device == "cuda" else 0

    @property
    def has_addresses(self) -> bool:
        """Whether its memory has addresses, so that parts of a tensor can be bound."""
        return self.device != "webgpu"

    @property
    def alone(self) -> AbstractContextManager[Any]:
        """Held while it is used, where two threads may not be at it.

        WebGPU's would end the process. A CUDA graph that is captured would have in it what other
        threads run in the session, and fail when they allocate or copy anywhere.
        """
        return nullcontext() if self.has_addresses and not self.captures else _lock

    @property
    def captures(self) -> bool:
        """Whether a decoder step is recorded as a CUDA graph, and replayed."""
        return self.options.get(_CAPTURE, "0").lower() in {"1", "true"}

    def without_capture(self) -> "Provider":
        """The same for graphs whose shapes change from call to call."""
        options = {name: value for name, value in self.options.items() if name != _CAPTURE}
        return replace(self, options=options)


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
    """Names of the providers that this onnxruntime was built with, best known first."""
    names = [
        full.removesuffix(_SUFFIX).lower()
        for full in onnxruntime().get_available_providers()
        if full != _NO_DEVICE
    ]
    names += [
        name
        for name, module in _PLUGINS.items()
        if name not in names and importlib.util.find_spec(module)
    ]
    known = list(_REMEDIES)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _full_name(name: str) -> str:
    """The name that onnxruntime has for a provider.

    Raises:
        InvalidConfigError: There is no such provider.
    """
    known = {full.removesuffix(_SUFFIX).lower(): full for full in onnxruntime().get_all_providers()}
    if name not in known:
        raise InvalidConfigError(
            f"provider is {name!r}: take auto, or one that is here: "
            f"{', '.join(available_providers())}."
        )
    full: str = known[name]
    return full


def check_provider_name(name: str) -> None:
    """Refuse a name that :func:`resolve_provider` does not know; it may know it and not have it.

    Raises:
        InvalidConfigError: There is no such name.
        ProviderError: onnxruntime is not installed.
    """
    if name != "auto":
        _full_name(name)


def resolve_provider(name: str = "auto", options: Mapping[str, Any] | None = None) -> Provider:
    """Find a provider; ``"auto"`` takes CUDA where onnxruntime has it, else the CPU.

    Args:
        name: As :class:`Provider` has it, or ``"auto"``.
        options: Over dia-ort's own for it; values that are no str are made such.

    Raises:
        InvalidConfigError: There is no such name; or options are given to the CPU, or to no name.
        ProviderError: This onnxruntime does not have that provider, or it finds no device.
    """
    if options and name in {"auto", "cpu"}:
        raise InvalidConfigError(
            f"provider options are given, and the provider is {name}: name the one they are for "
            "(the CPU's has none)."
        )
    available = available_providers()
    if name == "auto":
        name = "cuda" if "cuda" in available else "cpu"
        logger.info("provider auto takes %s", name)
    full = _full_name(name)
    if name not in available:
        raise ProviderError(
            f"the {name} provider is not in this onnxruntime (it has {', '.join(available)}). "
            f"To get it: {_REMEDIES.get(name, _OTHERS)}."
        )
    if name in _PLUGINS:
        _load_plugin(name)
    if name not in TESTED:
        logger.warning(_UNTESTED.get(name, "dia-ort has not been run on %s by its makers"), full)
    device = name if name in {"cuda", "webgpu"} else "cpu"
    given = {key: _option(value) for key, value in (options or {}).items()}
    return Provider(name, device, _OPTIONS.get(name, {}) | given)


def _option(value: Any) -> str:
    """A value as onnxruntime wants it: ``"1"`` for True."""
    return str(int(value) if isinstance(value, bool) else value)


def _load_plugin(name: str) -> None:
    """Have onnxruntime load a provider from its own package.

    Raises:
        ProviderError: onnxruntime is too old for it, it does not load, or it finds no device.
    """
    ort, full = onnxruntime(), _full_name(name)
    if full in ort.get_available_providers():
        return  # this onnxruntime was built with it, or has it already
    if tuple(map(int, ort.__version__.split(".")[:2])) < _PLUGIN_VERSION:
        raise ProviderError(
            f"onnxruntime {ort.__version__} is too old for the {name} provider: "
            f"pip install -U 'onnxruntime>={_dotted(_PLUGIN_VERSION)}'."
        )
    try:
        _register_plugin(name)
    except Exception as error:  # onnxruntime's own classes share no useful base
        raise ProviderError(
            f"the {name} provider does not load: {error}. It needs {_NEEDS[name]}."
        ) from error
    if not any(device.ep_name == full for device in ort.get_ep_devices()):
        raise ProviderError(
            f"the {name} provider finds no device here: it needs {_NEEDS[name]}. Or take "
            "--provider cpu."
        )


@cache
def _register_plugin(name: str) -> None:
    """Once in a process: onnxruntime refuses a second time."""
    library = importlib.import_module(_PLUGINS[name]).get_library_path()
    onnxruntime().register_execution_provider_library(name, library)


def parse_provider_options(entries: Iterable[str]) -> dict[str, str]:
    """Options from texts, ``KEY=VALUE`` each.

    Raises:
        InvalidConfigError: One is no such text, or a key is there twice.
    """
    options: dict[str, str] = {}
    for entry in entries:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not key or not equals or key in options:
            raise InvalidConfigError(
                f"provider_option has {entry!r}: write KEY=VALUE, each key once, as device_id=1"
            )
        options[key] = value
    return options


def open_session(
    path: Path,
    spec: GraphSpec,
    provider: Provider,
    threads: int | None,
    *,
    prepack: bool = True,
    levels: UnsignedLevels | None = None,
) -> Any:
    """Load a graph and hold its interface against the declaration.

    Args:
        path: The ONNX file.
        spec: What it must look like.
        provider: Where to run it.
        threads: For one operator, on the CPU; None leaves it to onnxruntime (all physical cores).
        prepack: Whether to bring the weights into the kernels' own order: faster to run, slower to
            load, and in memory instead of in the file's pages.
        levels: The weights that it wants in another form than the file's.

    Raises:
        ArtifactError: The file does not load, or has other inputs or outputs than declared.
        ProviderError: The provider does not start, or takes nothing of the graph; there is no quiet
            fall-back to the CPU.
    """
    ort, options = onnxruntime(), session_options(threads, prepack=prepack)
    on_cpu = provider.name == "cpu"
    if provider.name == "cuda":
        preload_libraries(ort)
    if not on_cpu:
        options.add_session_config_entry(_RECORD_PLACEMENT, "1")
    if levels:
        levels.add_to(options, ort)
    said = io.StringIO()
    try:
        with nullcontext() if on_cpu else _listening(said), provider.alone:
            session = ort.InferenceSession(str(path), options, providers=provider.chain)
    except Exception as error:  # onnxruntime's own classes share no useful base
        where = "" if on_cpu else f" on the {provider.name} provider"
        raise ArtifactError(
            f"{path} does not load{where}: {error}. Check the files with `dia-ort verify`, or "
            "export the model again."
        ) from error
    session.disable_fallback()
    if not on_cpu:
        _check_placement(path, session, provider, said.getvalue())
    _check_interface(path, "input", session.get_inputs(), spec.inputs)
    _check_interface(path, "output", session.get_outputs(), spec.outputs)
    session.levels = levels  # whose memory it uses
    if levels and prepack:
        levels.give_back()
    return session


@contextlib.contextmanager
def _listening(said: io.StringIO) -> Iterator[None]:
    """Catch what onnxruntime prints and warns of as it falls back on the CPU, an error here.

    Both are changed for the whole process, while other threads run. So it is not for the CPU, where
    a text encoder is opened for each script.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        yield


def open_own_graph(name: str, provider: Provider) -> Any:
    """A session of one of the runtime's own small graphs, which stand beside its modules.

    Its steps are never captured: a replay would take the addresses of the first.
    """
    with provider.alone:
        return onnxruntime().InferenceSession(
            str(Path(__file__).with_name(name)),
            session_options(),
            providers=provider.without_capture().chain,
        )


_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"


def node_placement(session: Any) -> dict[str, Counter[str]]:
    """How many nodes of each operator sit on each provider, by onnxruntime's names.

    Args:
        session: Of :func:`open_session`, on another provider than the CPU.
    """
    placement: dict[str, Counter[str]] = {name: Counter() for name in session.get_providers()}
    for part in session.get_provider_graph_assignment_info():
        placement[part.ep_name].update(node.op_type for node in part.get_nodes())
    return placement


def _check_placement(path: Path, session: Any, provider: Provider, said: str) -> None:
    """Refuse a provider that did not start or takes nothing; say what is left to the CPU."""
    full = _full_name(provider.name)
    if full not in session.get_providers():
        on_cuda = provider.name == "cuda"
        problem = find_problem(onnxruntime()) if on_cuda else _reason(said)
        raise ProviderError(
            f"the {provider.name} provider does not start on this machine: "
            + (problem or f"to get it, {_REMEDIES.get(provider.name, _OTHERS)}.")
            + " `dia-ort doctor` tells more; or take --provider cpu."
        )
    placement = node_placement(session)
    if not placement[full]:
        raise ProviderError(
            f"the {provider.name} provider takes no node of {path.name}: take --provider cpu."
        )
    left = {op: n for op, n in placement[CPU].items() if op not in _SHAPE_OPERATORS}
    logger.info("%s: %d nodes on %s", path.name, placement[full].total(), full)
    if left:
        listed = ", ".join(f"{number} {operator}" for operator, number in sorted(left.items()))
        logger.warning(
            "%s: %s stay on the CPU provider, of %d nodes: the %s provider does not take them",
            *(path.name, listed, sum(map(Counter.total, placement.values())), provider.name),
        )


def _reason(said: str) -> str | None:
    """Why a provider did not start, of what onnxruntime printed when it fell back on the CPU."""
    for line in said.splitlines():
        if line.startswith("EP Error "):
            return line.removeprefix("EP Error ").rpartition(" was false. ")[2].strip() + "."
    return None


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
        str(Path(__file__).with_name("overflow_probe.onnx")), providers=[CPU]
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
