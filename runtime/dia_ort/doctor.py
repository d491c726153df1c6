"""What ``dia-ort doctor`` finds: what is installed, what would be used, and what is wrong."""

import importlib
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dia_ort._version import __version__
from dia_ort.artifacts import (
    DEMO,
    broken_models,
    check_sizes,
    find_artifact,
    list_artifacts,
    models_folder,
)
from dia_ort.checks import usable_cpus
from dia_ort.cli_models import align, show_size, summary
from dia_ort.cuda import find_problem
from dia_ort.errors import ArtifactError, ArtifactNotFoundError, DiaError
from dia_ort.graphs import DAC_DECODER, DECODER
from dia_ort.memory import machine_memory
from dia_ort.placement import choose_file
from dia_ort.providers import (
    TESTED,
    available_providers,
    onnxruntime,
    open_session,
    resolve_provider,
)

_MEANWHILE = "Meanwhile, --provider cpu speaks."
_PACKAGES = (
    *("numpy", "soundfile", "soxr"),
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-webgpu"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, with what helps; a fatal one keeps dia-ort from speaking."""

    message: str
    fatal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        dia_ort: The version.
        python: Version and path.
        platform: Operating system and machine.
        cpu: The processor's name.
        cores: Logical ones that this process may use.
        memory: Of the machine, in bytes; None where the system does not tell.
        packages: Versions by distribution; None: not installed.
        libsndfile: Its version; None: it does not load.
        gpus: NVIDIA's, with memory and driver.
        providers: Those that onnxruntime was built with.
        auto: The provider that ``auto`` takes.
        models_folder: Where exported models are looked for.
        models: Those that load by name; without a name, the first speaks.
        problems: What is wrong.
    """

    dia_ort: str
    python: str
    platform: str
    cpu: str
    cores: int
    memory: int | None
    packages: dict[str, str | None]
    libsndfile: str | None
    gpus: list[str]
    providers: list[str]
    auto: str | None
    models_folder: str
    models: list[dict[str, Any]]
    problems: list[Problem]

    @property
    def can_speak(self) -> bool:
        """Whether ``dia-ort speak`` would work without further options."""
        return not any(problem.fatal for problem in self.problems)

    def to_json(self) -> str:
        """All of it, for programs."""
        return json.dumps({**asdict(self), "can_speak": self.can_speak}, indent=2)

    def to_text(self) -> str:
        """All of it, for people."""
        memory = "unknown" if self.memory is None else show_size(self.memory)
        packages = [f"{name} {number}" for name, number in self.packages.items() if number]
        models = [f"{m['name']} ({m['dtype']}, {show_size(m['size'])})" for m in self.models]
        rows = [
            ("dia-ort", self.dia_ort),
            ("Python", self.python),
            ("platform", self.platform),
            ("CPU", f"{self.cpu}, {self.cores} logical cores, {memory} of memory"),
            ("packages", ", ".join(packages)),
            ("libsndfile", self.libsndfile or "none"),
            *((("GPU", "; ".join(self.gpus)),) if self.gpus else ()),
            ("providers", ", ".join(map(_with_state, self.providers)) or "none"),
            ("auto takes", self.auto or "none"),
            ("models in", self.models_folder),
            ("models", ", ".join(models) or "none"),
        ]
        lines = [*align(rows), ""]
        for problem in self.problems:
            kind = "problem" if problem.fatal else "warning"
            lines.append(f"{kind}: {problem.message}")
        if self.can_speak:
            lines.append(f"dia-ort can speak, with {self.models[0]['name']} on {self.auto}.")
        else:
            lines.append("dia-ort cannot speak like this.")
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Look at everything that speaking needs. Raises nothing that a broken set-up explains."""
    packages = {name: _version(name) for name in _PACKAGES}
    providers, auto, provider_problems = _check_providers(packages)
    libsndfile, audio_problems = _check_audio()
    models, model_problems = _check_models()
    return Diagnosis(
        dia_ort=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        cpu=_cpu_name(),
        cores=usable_cpus(),
        memory=machine_memory(),
        packages=packages,
        libsndfile=libsndfile,
        gpus=_gpus(),
        providers=providers,
        auto=auto,
        models_folder=str(models_folder()),
        models=models,
        problems=[*provider_problems, *audio_problems, *model_problems],
    )


def _with_state(provider: str) -> str:
    return provider if provider in TESTED else f"{provider} (untested)"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_providers(
    packages: dict[str, str | None],
) -> tuple[list[str], str | None, list[Problem]]:
    """The providers, the one that ``auto`` takes, and what is wrong with them."""
    problems = []
    if packages["onnxruntime"] and packages["onnxruntime-gpu"]:
        problems.append(
            Problem(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip "
                "uninstall both, then pip install 'dia-ort[gpu]' (or 'dia-ort[cpu]').",
                fatal=False,
            )
        )
    try:
        providers = available_providers()
    except DiaError as error:
        return [], None, [*problems, Problem(str(error))]
    problems += [
        Problem(problem, fatal=name == "cuda")  # which auto takes
        for name in ("cuda", "webgpu")
        if name in providers and (problem := _try_provider(name))
    ]
    if "cuda" not in providers and shutil.which("nvidia-smi"):
        problems.append(
            Problem(
                "there is an NVIDIA driver, but this onnxruntime has no CUDA. To use the GPU: pip "
                "uninstall onnxruntime, then pip install 'dia-ort[gpu]'.",
                fatal=False,
            )
        )
    return providers, resolve_provider("auto").name, problems


def _try_provider(name: str) -> str | None:
    """Why a provider does not start; that onnxruntime was built for it does not say it does."""
    if name == "cuda" and (problem := find_problem(onnxruntime())):
        return f"{name} does not start: {problem} {_MEANWHILE}"
    try:
        demo = find_artifact(DEMO)
        provider = resolve_provider(name)
        for graph in (DECODER, DAC_DECODER):
            info = choose_file(demo.manifest, graph, provider)
            open_session(demo.folder / info.file, demo.manifest.spec(info), provider, None)
    except ArtifactNotFoundError:
        return None  # _check_models says so
    except DiaError as error:
        return f"{name} does not start: {error} {_MEANWHILE}"
    return None


def _gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU, as nvidia-smi tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,memory.total,driver_version"
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [program, query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ["nvidia-smi does not tell"]
    return done.stdout.splitlines()


def _check_audio() -> tuple[str | None, list[Problem]]:
    """The version of libsndfile, and what is wrong with the audio libraries."""
    problems = []
    libsndfile = None
    try:
        libsndfile = importlib.import_module("soundfile").__libsndfile_version__
    except (ImportError, OSError) as error:  # OSError: libsndfile itself is missing
        message = f"soundfile does not load ({error}): pip install soundfile, and libsndfile."
        problems.append(Problem(message))
    try:
        importlib.import_module("soxr")
    except ImportError as error:
        problems.append(Problem(f"soxr does not load ({error}): pip install soxr."))
    return libsndfile, problems


def _check_models() -> tuple[list[dict[str, Any]], list[Problem]]:
    """The models by name, and what is wrong with them; only the first has to be whole."""
    artifacts = list_artifacts()
    problems = [Problem(message, fatal=False) for message in broken_models()]
    for artifact in artifacts:
        try:
            check_sizes(artifact)
        except ArtifactError as error:
            problems.append(Problem(str(error), fatal=artifact is artifacts[0]))
    if not artifacts:
        problems.append(Problem("there is no model: make one with dia-export."))
    return [summary(artifact) for artifact in artifacts], problems


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
