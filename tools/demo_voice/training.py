"""What both trainings share: a loop that goes on where it was stopped, and a curve.

All chance of a step comes from the seed and the step's number, so that a training that was stopped
and one that was not end with the same weights.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

_WARM_UP = 100
_SAVE_EVERY = 250
_CURVE_EVERY = 25

Report = Callable[[int, int], None]
"""Is told how much is done, and of how much."""

Curve = list[dict[str, float]]
"""Means of figures over the steps up to ``step``."""


class Training(Protocol):
    """Something that is trained step by step."""

    steps: int

    def step(self, number: int) -> dict[str, float]:
        """Do a step, and return its figures."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""


def run(training: Training, folder: Path, report: Report) -> Curve:
    """Train to the end, from where ``folder`` says that it was stopped; it keeps the curve too."""
    folder.mkdir(parents=True, exist_ok=True)
    state, start = folder / "state.pt", 0
    curve: Curve = []
    if state.is_file():
        saved = torch.load(state, map_location="cpu", weights_only=True)
        training.load_state_dict(saved["training"])
        start, curve = saved["step"], saved["curve"]
    sums: dict[str, float] = {}
    for number in range(start, training.steps):
        for name, value in training.step(number).items():
            sums[name] = sums.get(name, 0.0) + value / _CURVE_EVERY
        done = number + 1
        if done % _CURVE_EVERY == 0:
            curve.append({"step": done, **sums})
            sums = {}
        if done % _SAVE_EVERY == 0 or done == training.steps:
            _save({"training": training.state_dict(), "step": done, "curve": curve}, state)
        report(done, training.steps)
    (folder / "curve.json").write_text(json.dumps(curve) + "\n", encoding="utf-8")
    return curve


def learning_rate(number: int, steps: int, highest: float) -> float:
    """A warm-up, then a cosine down to 2% of the highest."""
    cosine = 0.5 * (1 + math.cos(math.pi * number / steps))
    return highest * min(1.0, (number + 1) / _WARM_UP) * (0.02 + 0.98 * cosine)


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
