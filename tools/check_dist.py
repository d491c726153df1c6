"""Hold a built wheel and sdist against what they are to contain.

python tools/check_dist.py dist/
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL_CONTENTS = re.compile(
    r"(dia_models|dia_export|dia_ort)/(\w+/)*(\w+\.py|py\.typed)"
    r"|dia_ort/serve/page/[\w-]+\.(html|css|js)"
    r"|dia_ort/(demo/[\w.]+\.(json|onnx|onnx\.data)|demo/voices/\w+\.voice)"
    r"|dia_ort/(choose|gather|move|overflow_probe)\.onnx"
    r"|dia_ort-[\d.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"
)
WHEEL_NEEDS = (
    "dia_models/__init__.py",
    "dia_models/py.typed",
    "dia_export/cli.py",
    "dia_export/py.typed",
    "dia_ort/cli.py",
    "dia_ort/py.typed",
    "dia_ort/demo/manifest.json",
    "dia_ort/demo/voices/low.voice",
    "dia_ort/choose.onnx",
    "dia_ort/gather.onnx",
    "dia_ort/move.onnx",
    "dia_ort/overflow_probe.onnx",
    "dia_ort/serve/page/index.html",
)
SDIST_NEEDS = ("README.md", "LICENSE", "pyproject.toml", "tests/test_house.py")
SDIST_CONTENTS = re.compile(r"[^/]+|(docker|docs|export|models|packaging|runtime|tests|tools)/.+")
MAX_BYTES = 16 << 20  # the demonstration model has at most 15 MiB


def check(path: Path, names: list[str], needs: tuple[str, ...], allowed: re.Pattern[str]) -> None:
    """Exit with the faults of a distribution, if it has any."""
    faults = [f"lacks {name}" for name in needs if name not in names]
    faults += [f"holds {name}, an outsider" for name in names if not allowed.fullmatch(name)]
    size = path.stat().st_size
    if size > MAX_BYTES:
        faults.append(f"has {size} bytes, and {MAX_BYTES} are the limit")
    if faults:
        sys.exit("\n".join(f"{path.name} {fault}" for fault in faults))
    print(f"{path.name}: {size / 1e6:.1f} MB, {len(names)} files")


def main() -> None:
    dist = Path(sys.argv[1])
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    check(wheel, zipfile.ZipFile(wheel).namelist(), WHEEL_NEEDS, WHEEL_CONTENTS)
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    check(sdist, names, SDIST_NEEDS, SDIST_CONTENTS)


if __name__ == "__main__":
    main()
