"""NVIDIA's side of the CUDA provider: its libraries, its driver, and what is missing of them."""

import contextlib
import ctypes
import io
import re
import sys
from functools import cache
from pathlib import PureWindowsPath
from typing import Any

_ON_WINDOWS = sys.platform == "win32"
_DRIVER = "nvcuda.dll" if _ON_WINDOWS else "libcuda.so.1"
_CUDNN = "cudnn64_9.dll" if _ON_WINDOWS else "libcudnn.so.9"
_LIBRARIES = "pip uninstall onnxruntime, then pip install 'dia-ort[gpu]', which brings them"


def _loads(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


@cache
def preload_libraries(ort: Any) -> tuple[str, ...]:
    """Load CUDA and cuDNN, from NVIDIA's wheels or the system, as onnxruntime finds them.

    Args:
        ort: The onnxruntime module.

    Returns:
        The libraries that did not load.
    """
    said = io.StringIO()  # onnxruntime names them on stdout, which may be audio
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    failed = re.findall(r"^Failed to load (.+?\.(?:dll|so[.\d]*)):", said.getvalue(), re.MULTILINE)
    missing = [PureWindowsPath(path).name for path in failed]  # for both kinds of slashes
    if not missing and not _loads(_CUDNN):  # onnxruntime asks for it when it first needs it
        missing = [_CUDNN]
    return tuple(missing)


def find_problem(ort: Any) -> str | None:
    """Why onnxruntime's CUDA provider cannot start here, with what helps; None if nothing shows.

    Args:
        ort: The onnxruntime module, built for CUDA.
    """
    if missing := preload_libraries(ort):
        return f"{', '.join(missing)} is missing: {_LIBRARIES}."
    driver = _loads(_DRIVER)
    if driver is None:
        return (
            f"there is no NVIDIA driver ({_DRIVER} does not load): install one, and in a container "
            "give it the GPU (docker run --gpus all)."
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    needed = str(ort.cuda_version)
    if needed and version.value // 1000 < int(needed.split(".", maxsplit=1)[0]):
        return (
            f"the NVIDIA driver is for CUDA up to {version.value // 1000}."
            f"{version.value % 1000 // 10}, and this onnxruntime needs CUDA {needed}: update it."
        )
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU: look whether nvidia-smi does."
    return None
