"""The pictures of a comparison and of a profile. Drawn without pyplot: it would look for a display, and keeps what it drew."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from paribus.comparison import Comparison, Level, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paribus.profile.complexity import Layer
    from paribus.profile.run import Profile

# Okabe and Ito: told apart by every common kind of colour vision. Everything coloured is also said in words.
COLORS = {"better": "#0072B2", "worse": "#D55E00", "baseline": "#111111"}
GREY, PALE = "#555555", "#d9d9d9"
SCORE, VERDICT, RIGHT = 0.2, 1.3, 2.85  # inches from the axes: the columns of words, and the edge


def levels_figure(comparison: Comparison) -> "Figure":
    """A row for each level: every seed a dot, above them the mean and its 95 % t interval, both in words at
    the right; the baseline's mean is the dashed line."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same runs make the same SVG, byte for byte: it may be committed.
    matplotlib.rcParams["svg.hashsalt"] = "paribus"
    scale, levels = Scale.of(comparison), comparison.levels
    title = textwrap.wrap(comparison.title, 70)
    # In inches: the margins keep their size whatever the number of levels.
    left = min(3.0, 0.3 + 0.085 * max(len(level.label) for level in levels))
    bottom, top = 0.85, 0.3 + 0.24 * len(title)
    width, height = left + 4.0 + RIGHT, top + bottom + 0.46 * len(levels)
    figure = Figure(figsize=(width, height), facecolor="white")
    inside = (left / width, bottom / height, 1 - (left + RIGHT) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(inside)
    seeds = sorted({seed for level in levels for seed in level.values})
    for row, level in enumerate(levels):
        _draw_level(axes, row, level, seeds, scale)
    baselines = [level.summary for level in levels if level.verdict == "baseline" and level.summary]
    if len(baselines) == 1:
        axes.axvline(scale.factor * baselines[0].mean, color=GREY, linewidth=1, dashes=(4, 3), zorder=0)
    _finish(axes, comparison, scale)
    for line, text in enumerate(title):
        y = 1 - (0.24 + 0.24 * line) / height
        figure.text(0.12 / width, y, text, fontsize=12, fontweight="bold", va="center")
    legend = "Small dots: seeds.  Diamond and bar: mean and its 95 % t interval."
    legend += f"  Dashed: {comparison.baseline}, the baseline." if len(baselines) == 1 else ""
    figure.text(0.12 / width, 0.14 / height, legend, fontsize=8, color=GREY, va="center")
    return figure


def _draw_level(axes: "Axes", y: int, level: Level, seeds: list[int], scale: Scale) -> None:
    color = COLORS.get(level.verdict, GREY)
    for seed, value in level.values.items():
        # A seed keeps its height from row to row, so that pairs can be followed.
        below = 0.2 + 0.2 * seeds.index(seed) / max(1, len(seeds) - 1)
        axes.plot(scale.factor * value, y + below, "o", markersize=4, color=color, alpha=0.6, mew=0)
    if level.summary:
        mean = scale.factor * level.summary.mean
        half = scale.factor * (level.summary.half or 0)
        axes.plot([mean - half, mean + half], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, y, "D", markersize=6.5, color=color, markeredgecolor="white")
        said = scale(level.summary.mean)
        said += f" ± {scale(level.summary.half)}" if level.summary.half is not None else ""
    else:
        said = "no finished run"
    edge = axes.get_yaxis_transform()
    for inches, text in ((SCORE, said), (VERDICT, level.verdict)):
        axes.annotate(
            text, (1, y), (72 * inches, 0), edge, "offset points", va="center", fontsize=9.5, color=color
        )


def _finish(axes: "Axes", comparison: Comparison, scale: Scale) -> None:
    levels = comparison.levels
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.set_yticks(range(len(levels)), [level.label for level in levels], fontsize=10)
    low, high = axes.get_xlim()
    if scale.percent:  # an interval may reach past what is possible; the axis does not
        margin = 0.02 * (high - low)
        axes.set_xlim(max(low, -margin), min(high, 100 + margin))
    axes.set_xlabel(f"{comparison.metric}, {scale.unit}" if scale.unit else comparison.metric, fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=PALE)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)


# --- what networks cost ------------------------------------------------------------------------------

KINDS = {
    "conv": ("#0072B2", "convolution"),
    "linear": ("#D55E00", "linear"),
    "attention": ("#CC79A7", "attention"),
    "norm": ("#009E73", "norm"),
    "pool": ("#E69F00", "pooling"),
    "upsample": ("#56B4E9", "enlarging"),
    "other": ("#999999", "other"),
}
COSTS = {  # of a layer or a network: title, unit of one layer, unit of a network
    "memory": ("Memory of the outputs", (2**10, "KB"), (2**20, "MB")),
    "parameters": ("Parameters", (1e3, "thousand"), (1e6, "M")),
    "macs": ("Multiply-adds", (1e6, "M"), (1e9, "G")),
}
MOST_NAMES = 48  # layers that are named under their bars


def shares_figure(profiles: "Sequence[Profile]") -> "Figure":
    """For memory, parameters and multiply-adds a bar a network, of 100 %, by kinds of layers; the network's
    sum at its end."""
    from matplotlib.figure import Figure

    names = [profile.name for profile in profiles]
    left, right, gap, bottom, top = 0.3 + 0.085 * max(map(len, names)), 0.9, 1.0, 0.4, 0.8
    panel = 2.9
    width, height = left + 3 * panel + 2 * gap + right, top + bottom + 0.42 * len(profiles)
    figure = Figure(figsize=(width, height), facecolor="white")
    shown: set[str] = set()
    for place, (key, (title, _, (factor, unit))) in enumerate(COSTS.items()):
        x = left + place * (panel + gap)
        inside = (x / width, bottom / height, panel / width, 1 - (top + bottom) / height)
        axes = figure.add_axes(inside)
        for row, profile in enumerate(profiles):
            whole, start = sum(getattr(layer, key) for layer in profile.layers), 0.0
            for kind in KINDS:
                part = sum(getattr(layer, key) for layer in profile.layers if _kind(layer) == kind)
                share = 100 * part / whole if whole else 0
                if share:
                    axes.barh(
                        row, share, 0.66, left=start, color=KINDS[kind][0], edgecolor="white", linewidth=0.8
                    )
                    shown.add(kind)
                if share >= 9:
                    x = start + share / 2
                    axes.text(x, row, f"{share:.0f}", ha="center", va="center", fontsize=8.5, color="white")
                start += share
            amount = whole / factor
            said = f"{amount:,.0f}" if amount >= 100 else f"{amount:#.3g}"
            axes.annotate(
                f"{said} {unit}", (100, row), (5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set_title(f"{title}, %", fontsize=10.5, loc="left", pad=6)
        axes.set_xlim(0, 100)
        axes.set_ylim(len(profiles) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), fontsize=10)
        axes.set_xticks([0, 25, 50, 75, 100])
        _plain(axes)
    _legend(figure, [kind for kind in KINDS if kind in shown], 1 - 0.24 / height)
    return figure


def layers_figure(profile: "Profile") -> "Figure":
    """Memory, parameters and multiply-adds of one network, a bar a layer."""
    from matplotlib.figure import Figure

    layers = [layer for layer in profile.layers if layer.output]
    named = len(layers) <= MOST_NAMES
    names = [layer.name.removeprefix("backbone.") for layer in layers]
    left, right, top, gap, panel = 0.85, 0.2, 0.95, 0.42, 1.35
    bottom = 0.25 + 0.075 * max(map(len, names)) if named else 0.5
    width = max(6.5, left + right + min(10.0, 0.27 * len(layers)))
    height = top + 3 * panel + 2 * gap + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    for place, (key, (title, (factor, unit), _)) in enumerate(COSTS.items()):
        y = bottom + (2 - place) * (panel + gap)
        axes = figure.add_axes((left / width, y / height, 1 - (left + right) / width, panel / height))
        values = [getattr(layer, key) / factor for layer in layers]
        axes.bar(range(len(layers)), values, 0.78, color=[KINDS[_kind(layer)][0] for layer in layers])
        axes.set_title(f"{title}, {unit}", fontsize=10.5, loc="left", pad=5)
        axes.set_xlim(-0.7, len(layers) - 0.3)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.tick_params(axis="y", labelsize=8.5)
        ticks = range(len(layers)) if named else []
        axes.set_xticks(
            ticks, names if named and place == 2 else [""] * len(ticks), rotation=90, fontsize=8.5
        )
        _plain(axes, "y")
    axes.set_xlabel("" if named else f"{len(layers)} layers, from the image to the answer", fontsize=9.5)
    figure.text(0.12 / width, 1 - 0.24 / height, profile.name, fontsize=12, fontweight="bold", va="center")
    shown = {_kind(layer) for layer in layers}
    _legend(figure, [kind for kind in KINDS if kind in shown], 1 - 0.5 / height)
    return figure


def _kind(layer: "Layer") -> str:
    kind = layer.kind.removeprefix("transposed ")
    return kind if kind in KINDS else "other"


def _legend(figure: "Figure", kinds: list[str], y: float) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=KINDS[kind][0], label=KINDS[kind][1]) for kind in kinds]
    figure.legend(
        handles=patches,
        loc="center left",
        bbox_to_anchor=(0.12 / figure.get_figwidth(), y),
        ncols=len(kinds),
        frameon=False,
        fontsize=9.5,
        borderaxespad=0,
        borderpad=0,
        handlelength=1,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _plain(axes: "Axes", values: Literal["x", "y"] = "x") -> None:
    """A light grid along the values, and no frame."""
    axes.grid(axis=values, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    if values == "x":
        axes.tick_params(axis="x", labelsize=8.5, labelcolor=GREY)
    for side in ("left", "top", "right", "bottom"):
        axes.spines[side].set_visible(False)
