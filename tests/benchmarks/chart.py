"""The picture: how many times our time each peer takes, one panel for each workload."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tests.benchmarks.workloads import WORKLOADS
from tests.benchmarks.writers import WRITERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.results import Results

_OURS, _SLOWER, _FASTER, _INK = "#1f5fa8", "#b9c2cc", "#d9822b", "#333333"


def draw(found: Results, path: Path) -> None:
    """Draw a chart of horizontal bars on a logarithmic axis, one panel for each workload."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    panels = [w for w in WORKLOADS if (t := found.timing(w.name, "lazychunks")) and t.ran]
    if not panels:
        return
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(5.6 * across, 3.5 * down), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, workload in zip(axes.flat, panels, strict=False):
        _panel(axis, found, workload.name, workload.title)
    figure.suptitle(
        "Time to store the same blocks, as a multiple of lazychunks' time\n",
        fontsize=13,
        fontweight="bold",
        color=_INK,
    )
    figure.text(
        0.5,
        0.965 if down > 1 else 0.92,
        f"median of ratios over {found.repeats} alternating rounds, "
        f"{found.machine['cores']} cores; "
        "right of the line (gray) slower than lazychunks, left (orange) faster",
        ha="center",
        fontsize=9,
        color=_INK,
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def _panel(axis: Any, found: Results, name: str, title: str) -> None:
    ours = found.timing(name, "lazychunks")
    bars: list[tuple[float, str, str]] = []
    absent: list[str] = []
    for writer in WRITERS:
        timing = found.timing(name, writer.name)
        over = timing.over(ours) if timing is not None and ours is not None else None
        if timing is not None and over is None:
            absent.append(f"{writer.title}: {timing.skipped}")
        elif over is not None:
            color = _SLOWER if over >= 1 else _FASTER
            is_ours = writer.distribution == "lazychunks"
            bars.append((over, writer.title, _OURS if is_ours else color))
    bars.sort(key=lambda bar: bar[0])
    low, high = min(bar[0] for bar in bars), max(bar[0] for bar in bars)
    left = min(0.5, low / 1.3)
    for place, (over, _, color) in enumerate(bars):
        start, end = min(1, over), max(1, over)
        axis.barh(place, end - start, left=start, color=color, height=0.72)
        if over == 1:
            axis.plot([1], [place], "o", color=color, markersize=6)
        axis.annotate(
            f"{over:.2f}" if over < 10 else f"{over:.0f}",
            (end, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_INK,
        )
    axis.axvline(1, color=_OURS, linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(left, max(high, 1.5) * (high / left) ** 0.12 * 1.1)
    ticks = [
        t
        for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        if left <= t <= high * 1.2
    ]
    if high / left > 50:
        ticks = [t for t in ticks if t in {0.1, 1, 10, 100, 1000}]
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(bars)), [bar[1] for bar in bars], fontsize=8)
    axis.tick_params(axis="both", length=0, labelsize=8, colors=_INK)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10, loc="left", color=_INK)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    if absent:
        axis.set_xlabel("; ".join(absent), fontsize=7, color="#777777", loc="left")
