"""The exports to measure, made when they are missing or older than the code that makes them."""

import hashlib
import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.apart import run_apart


def ensure_artifact(
    root: Path, model: str, dtype: str, *, calibrate: bool = True
) -> tuple[Path, dict[str, float] | None]:
    """Export a model, unless that was done with the same code.

    Args:
        root: Where exports are kept.
        model: ``"tiny-random"`` or ``"full-random"``.
        dtype: As for ``dia-export``; with "-standard" after it, in standard operators; with a
            number after it, its decoder in blocks of that size.
        calibrate: As for ``dia_export.export``.

    Returns:
        The folder; and the seconds and peak memory of the export, None if there was none.
    """
    folder = root / f"{model}-{dtype}"
    if is_current(folder, calibrate=calibrate):
        return folder, None
    root.mkdir(parents=True, exist_ok=True)
    figures = run_apart("benchmark.artifacts:export_artifact", model, dtype, folder, calibrate)
    mark_current(folder, calibrate=calibrate)
    return folder, figures


def export_artifact(model: str, dtype: str, folder: Path, calibrate: bool) -> dict[str, float]:  # noqa: FBT001 - sent to another process
    """Export into a folder, replacing it; ``seconds`` it took, without the gate."""
    from dia_export import export
    from dia_export.recipes import RECIPES

    name, _, variant = dtype.partition("-")
    options: dict[str, Any] = {"dtype": name, "calibrate": calibrate}
    if variant.isdigit():  # for this process, which is for nothing else
        blocks = replace(RECIPES[name].quantization["decoder"], block_size=int(variant))
        recipe = RECIPES[name]
        RECIPES[name] = replace(recipe, quantization=recipe.quantization | {"decoder": blocks})
    elif variant:
        options["attention"] = variant
    started = time.perf_counter()
    export(model, **options, output=folder, verify=False, force=True)
    return {"seconds": time.perf_counter() - started}


def is_current(folder: Path, *, calibrate: bool = True) -> bool:
    """Whether what a folder holds was exported so by the code as it is."""
    stamp = _stamp(folder)
    return folder.is_dir() and stamp.is_file() and stamp.read_text() == _digest(calibrate)


def mark_current(folder: Path, *, calibrate: bool = True) -> None:
    """Note that the code as it is has exported into a folder, and how."""
    _stamp(folder).write_text(_digest(calibrate))


def _stamp(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sources")


def _digest(calibrate: bool) -> str:  # noqa: FBT001 - all that is asked
    """Of the code that exports: an artifact of older code must not be measured as if new."""
    digest = hashlib.sha256(str(calibrate).encode())
    for package, pattern in (
        ("dia_models", "*.py"),
        ("dia_export", "*.py"),
        ("dia_ort", "graphs.py"),
        ("dia_ort", "manifest.py"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{package} is not installed: pip install -e '.[export]' --group dev.")
        for path in sorted(Path(spec.submodule_search_locations[0]).glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
