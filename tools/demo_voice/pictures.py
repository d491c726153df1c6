"""Pictures of what was trained: curves, and spectrograms."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from demo_voice.acoustics import Samples
from demo_voice.espeak import SAMPLE_RATE
from demo_voice.training import Curve

mpl.use("Agg")
from matplotlib import pyplot as plt

_HIGHEST = 8000  # Hz


def draw_curves(curves: Mapping[str, Curve], file: Path) -> None:
    """The figures of trainings over their steps, a panel each."""
    figure, panels = plt.subplots(1, len(curves), figsize=(10, 3.5), layout="constrained")
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        steps = [point["step"] for point in curve]
        for label in curve[0]:
            if label != "step":
                panel.plot(steps, [point[label] for point in curve], label=label, linewidth=1)
        panel.set(title=name, xlabel="step", yscale="log")
        panel.legend(fontsize="small")
    figure.savefig(file, dpi=80)
    plt.close(figure)


def draw_spectrograms(recordings: Mapping[str, Samples], file: Path) -> None:
    """One above the other, on the same axes."""
    figure, panels = plt.subplots(
        len(recordings), 1, figsize=(8, 2.2 * len(recordings)), sharex=True, layout="constrained"
    )
    for panel, (name, samples) in zip(panels, recordings.items(), strict=True):
        loudest = np.abs(samples).max(initial=1e-6)
        with np.errstate(divide="ignore"):  # silence, which stays black
            panel.specgram(
                samples / loudest,
                1024,
                SAMPLE_RATE,
                noverlap=768,
                vmin=-130,
                vmax=-40,
                cmap="magma",
            )
        panel.set_facecolor("black")
        panel.set(title=name, ylim=(0, _HIGHEST), ylabel="Hz")
    panels[-1].set_xlabel("seconds")
    figure.savefig(file, dpi=80)
    plt.close(figure)
