"""Small SVG plots for reports, in one style, without a display or global state."""

import io
from collections import Counter
from typing import Any, Final

INK: Final = "#1c2733"
BLUE: Final = "#2f6f9f"
ORANGE: Final = "#c8662b"
GREY: Final = "#9aa5ae"


def figure() -> tuple[Any, Any]:
    """A figure and its axes."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    drawn = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#e6eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    return drawn, axes


def svg(drawn: Any, axes: Any, xlabel: str, ylabel: str) -> str:
    """The figure as an <svg> element."""
    import matplotlib

    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    sink = io.StringIO()
    # Keep text as text, so that the page is small and can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sluice"}):
        drawn.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    return sink.getvalue()[sink.getvalue().index("<svg") :]


def whole_ticks(axes: Any) -> None:
    """Only whole numbers on the y axis."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def whole_ticks_x(axes: Any) -> None:
    """Only whole numbers on the x axis, even if there is only one."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    if high - low < 2:
        axes.set_xlim(round(low + high) / 2 - 1, round(low + high) / 2 + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def log_stairs(axes: Any, counts: Counter[int], per_decade: int, color: str, label: str) -> None:
    """A histogram over logarithmic buckets, as a line. Bucket b begins at 10^(b / per_decade)."""
    buckets = range(min(counts), max(counts) + 2) if counts else range(2)
    edges = [10 ** (bucket / per_decade) for bucket in buckets]
    axes.stairs([counts[bucket] for bucket in buckets[:-1]], edges, color=color, label=label, linewidth=1.8)


def log_ticks(axes: Any) -> None:
    """A logarithmic x axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def throughput(points: list[dict[str, float]]) -> str:
    """Rows per second over the working time."""
    drawn, axes = figure()
    xs, ys = ([point[name] for point in points] for name in ("seconds", "rows_per_second"))
    axes.step(xs, ys, where="mid", color=BLUE, linewidth=1.5)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return svg(drawn, axes, "working time in seconds", "rows per second")
