"""Draws the pictures of docs/method.md.

python docs/pictures.py
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.style
import torch
from matplotlib.figure import Figure

from adar_ray.adar import AdarSettings
from adar_ray.adar.transition import score_aware_boundary, transition_angle

DEFAULTS = AdarSettings()
VALUES = {"beta": (0.5, 0.7, 0.9), "gamma": (1.0, 0.75, 0.5), "candidates": (1, 4, 16, 64)}
R_MEAN = 2.0  # standard deviations above the average item: what positives reach early in training
# What the hardest of M standard normal scores is on average, for M = 1, 4, 16, 64.
HARDEST = {1: 0.0, 4: 1.03, 16: 1.77, 64: 2.34}


def main() -> None:
    with matplotlib.style.context(Path(__file__).with_suffix(".mplstyle")):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplot_mosaic(
            [["beta", "gamma", "."], ["beta, t", "gamma, t", "candidates, t"]], sharex=True
        )
        r = torch.linspace(0.02, 5, 500, dtype=torch.float64)
        for name, values in VALUES.items():
            for value in values:
                setting = DEFAULTS.model_copy(update={name: value})
                z = score_aware_boundary(r, setting.beta, setting.gamma, R_MEAN)
                # A noise item of average hardness.
                phi = transition_angle(r, torch.full_like(r, HARDEST[setting.candidates]), z)
                panels[f"{name}, t"].plot(r, phi / (math.pi / 2), label=f"{name} = {value:g}")
                if name in panels:
                    panels[name].plot(r, z, label=f"{name} = {value:g}")
        for name in ("beta", "gamma"):
            panels[name].plot(r, r, color="#9aa5b1", linestyle=":", label="the positive")
            panels[name].set(ylim=(0, 5), ylabel="boundary z(r)")
        for name in VALUES:
            panels[f"{name}, t"].set(ylim=(0, 1.05), ylabel="timestep t*", xlabel="positive's score r")
        for axes in panels.values():
            axes.legend()
        figure.savefig(Path(__file__).parent / "score_aware.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
