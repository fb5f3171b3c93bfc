"""Pictures of the tables: matplotlib axes, labels that do not overlap, bars and curves.

Every ``draw_…`` takes matplotlib axes, or True for a new figure, and returns the axes. matplotlib is imported here
alone, when a new figure is made.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from minicf.texts import harmless

BLUE, RED, GRAY = "#2f6db5", "#c44536", "#9aa0a6"
COLORS = (BLUE, RED, "#3a8f5c", "#8a5fb0", "#c78a1e", "#4aa3a2")

AS_TEXT = {"parse_math": False, "usetex": False}
"""Of every text with a title, an id or a name in it: a $ is a dollar, whatever the caller's style says of TeX."""


def axes_for(ax: Any, size: tuple[float, float]) -> Any:
    """Return the given axes, or for True those of a new figure of this size in inches."""
    if ax is not True:
        if not hasattr(ax, "annotate"):
            raise TypeError(f"ax is {ax!r}; it must be matplotlib axes, or True for a new figure")
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'minicf[plot]'") from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _hide_box(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def short_title(title: str, width: int) -> str:
    """Shorten a title to at most `width` characters: drop its other names, then cut it, but keep its year.

    Control characters are written as escapes: a line break would make two lines of a label.
    """
    title = harmless(title)
    if len(title) <= width:
        return title
    match = re.search(r" \(\d{4}\)$", title)
    name, year = (title[: match.start()], match.group()) if match else (title, "")
    name = re.sub(r" \(.*", "", name)
    room = max(1, width - len(year))
    return (name if len(name) <= room else name[: room - 1].rstrip(" ,:-") + "…") + year


# --- bars -------------------------------------------------------------------------------------------------------------


def draw_biases(ax: Any, table: pd.DataFrame, name: str) -> Any:
    """Draw the 15 best and the 15 worst of a `bias_table`; `name` is its column of levels."""
    ax = axes_for(ax, (8, 8))
    shown = pd.concat([table.head(15), table.tail(15)]) if len(table) > 30 else table
    zero = 0.0 if name == "bias" else float(table[name].mean())
    heights = np.arange(len(shown), 0, -1.0)
    heights[len(shown) // 2 :] -= 0.8 * (len(table) > 30)  # a gap where the middle is left out
    ax.barh(heights, shown[name] - zero, left=zero, color=[BLUE if x >= zero else RED for x in shown[name]])
    ax.set_yticks(heights, [short_title(title, 44) for title in shown.title], **AS_TEXT)
    ax.set_ylim(heights[-1] - 0.8, heights[0] + 0.8)
    ax.axvline(zero, color="0.3", linewidth=0.8)
    ax.set_xlabel("bias" if name == "bias" else "mean prediction over users")
    ax.set_title(f"Best and worst of the {len(table):,} most rated")
    _hide_box(ax)
    return ax


def draw_variance(ax: Any, explained: np.ndarray, n_items: int) -> Any:
    """Draw the share of variance of each component."""
    ax = axes_for(ax, (6, 4))
    numbers = np.arange(1, len(explained) + 1)
    ax.bar(numbers, 100 * explained, color=BLUE, width=0.6)
    ax.set_xticks(numbers)
    ax.set_xlabel("principal component")
    ax.set_ylabel("share of the factors' variance, %")
    ax.set_title(f"Item factors of the {n_items:,} most rated")
    _hide_box(ax)
    return ax


def draw_similarities(ax: Any, table: pd.DataFrame, title: str) -> Any:
    """Draw the table of `nearest_items` of the item with this title."""
    ax = axes_for(ax, (8, 0.32 * len(table) + 1.2))
    ax.barh(np.arange(len(table), 0, -1), table.similarity, color=BLUE)
    ax.set_yticks(np.arange(len(table), 0, -1), [short_title(title, 44) for title in table.title], **AS_TEXT)
    ax.set_xlabel("similarity")
    ax.set_title(f"Nearest to {short_title(title, 44)}", **AS_TEXT)
    _hide_box(ax)
    return ax


def draw_parts(ax: Any, parts: pd.DataFrame, score: float, prediction: float) -> Any:
    """Draw the parts of a score, each bar from the end of the one before."""
    shown = _largest(parts, 12)
    ax = axes_for(ax, (7, 0.32 * len(shown) + 1.2))
    heights = np.arange(len(shown), 0, -1)
    ends = shown.value.cumsum()
    ax.barh(heights, shown.value, left=ends - shown.value, color=[BLUE if x >= 0 else RED for x in shown.value])
    ax.set_yticks(heights, shown.part)
    ax.axvline(score, color="0.3", linewidth=0.8, linestyle=":")
    ax.set_xlabel("score" if prediction != score else "predicted rating")
    ax.set_title(f"Parts of a prediction: {score:.2f}" + (f" → {prediction:.2f} stars" if prediction != score else ""))
    _hide_box(ax)
    return ax


def _largest(parts: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return n parts: of the terms of factors only the largest by magnitude, and the sum of the others."""
    factor = parts.part.str.startswith("factor ")
    if len(parts) <= n:
        return parts
    room = n - int((~factor).sum()) - 1
    terms = parts[factor].sort_values("value", key=abs, ascending=False, kind="stable")
    rest = pd.DataFrame({"part": [f"other {len(terms) - room} factors"], "value": [terms.value.iloc[room:].sum()]})
    return pd.concat([parts[~factor], terms.iloc[:room], rest])


# --- curves -----------------------------------------------------------------------------------------------------------


def draw_curves(ax: Any, frames: Mapping[str, pd.DataFrame], training: bool) -> Any:
    """Draw the validation error of each run's history, with `training` also the training error, dashed."""
    ax = axes_for(ax, (9, 5.5))
    labels, lines = [], []
    for (name, frame), color in zip(frames.items(), itertools.cycle(COLORS)):
        metric = _metric(frame)
        if frame[f"valid_{metric}"].notna().any():
            labels.append(f"{name} validation".strip() if training else str(name))
            lines += ax.plot(frame.epoch, frame[f"valid_{metric}"], ".-", color=color, linewidth=1.6, label=labels[-1])
        if training:
            labels.append(f"{name} training".strip())
            lines += ax.plot(frame.epoch, frame[f"train_{metric}"], "--", color=color, linewidth=1, label=labels[-1])
    ax.set_xlabel("epoch")
    metrics = sorted({_metric(frame) for frame in frames.values()})
    if metrics == ["mse"]:
        ax.set_ylabel("mean squared error" if training else "validation error (mean squared)")
    else:
        ax.set_ylabel(short_title(", ".join(metrics).replace("_", " "), 60), **AS_TEXT)
    ax.xaxis.get_major_locator().set_params(integer=True)
    _hide_box(ax)
    legend = ax.legend(lines, ["-"] * len(lines), frameon=False)
    for text, label in zip(
        legend.get_texts(), labels, strict=True
    ):  # matplotlib's own way leaves out what begins with _
        text.set(text=short_title(label, 60), **AS_TEXT)
    rates = pd.concat([frame.lr for frame in frames.values()])
    if not rates.notna().any():  # a solver without a learning rate
        ax.set_title("Errors")
    elif rates.nunique() == 1:
        ax.set_title(f"Learning rate {rates.iloc[0]:g}")
    else:
        ax.set_title("Errors, and the learning rate as thin steps")
        _draw_rates(ax, frames)
    return ax


def _metric(frame: pd.DataFrame) -> str:
    """Return the loss of a history by the name of its columns; a hybrid's own comes before those of its heads."""
    return str(next(name for name in frame.columns if name.startswith("train_"))).removeprefix("train_")


def _draw_rates(ax: Any, frames: Mapping[str, pd.DataFrame]) -> None:
    """Draw learning rates as thin steps on an axis of their own, on the right."""
    rates = ax.twinx()
    for frame, color in zip(frames.values(), itertools.cycle(COLORS if len(frames) > 1 else [GRAY])):
        ends = [*(frame.epoch - 0.5), frame.epoch.iloc[-1] + 0.5]
        rates.step(ends, [*frame.lr, frame.lr.iloc[-1]], where="post", color=color, alpha=0.6, linewidth=0.9)
    rates.set_yscale("log")
    rates.set_ylabel("learning rate at the epoch's start")
    rates.spines[["top"]].set_visible(False)
    rates.margins(y=0.6)  # away from the ends of the curves


# --- the map ----------------------------------------------------------------------------------------------------------


def draw_map(ax: Any, table: pd.DataFrame, explained: np.ndarray, x: int, y: int, labels: int) -> Any:
    """Draw the table of `item_map` along components x and y, with at most `labels` titles."""
    ax = axes_for(ax, (12, 9))
    across, up = table[f"pc{x}"].to_numpy(), table[f"pc{y}"].to_numpy()
    chosen = points_to_label(across, up, labels)
    ax.scatter(across, up, s=6, color=GRAY, alpha=0.35, linewidths=0)
    for axis, k in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_label_text(f"principal component {k} ({100 * explained[k - 1]:.1f} % of the variance)")
    ax.set_title(f"The {len(table):,} most rated items, with titles of the best known and of the outermost")
    _hide_box(ax)
    titles = [short_title(title, 38) for title in table.title.iloc[chosen]]
    chosen = chosen[_place_labels(ax, across[chosen], up[chosen], titles)]
    ax.scatter(across[chosen], up[chosen], s=18, color=BLUE, linewidths=0, zorder=3)
    return ax


def points_to_label(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return the positions of n points: for the first half the first points, then those farthest from the middle."""
    spread = np.array([x.std(), y.std()]) + np.finfo(float).tiny
    outwards = np.argsort(-np.hypot((x - x.mean()) / spread[0], (y - y.mean()) / spread[1]), kind="stable")
    return np.array(list(dict.fromkeys([*range(min(len(x), (n + 1) // 2)), *outwards.tolist()]))[:n], np.int64)


def _place_labels(ax: Any, x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Write each text beside its point, in order of importance, where it covers no label, line or labeled point.

    Places are tried on growing circles around the point; from the farther ones a thin line leads to the point. A text
    without a free place is left out.

    Returns
    -------
    array of bool, one per text: whether it was written.
    """
    figure = ax.figure.canvas.figure  # the whole figure, also where the axes are in a part of one
    figure.draw_without_rendering()  # settles the layout, and with it where points are
    points = ax.transData.transform(np.column_stack([x, y]))
    scale = figure.dpi / 72.0  # pixels a point of type
    inside = ax.get_window_extent()
    taken = np.column_stack([points - 3 * scale, points + 3 * scale])  # left, low, right, high
    written = np.zeros(len(points), bool)
    for i, (point, text, at) in enumerate(zip(points, texts, zip(x, y, strict=True), strict=True)):
        label = ax.annotate(text, at, (0, 0), textcoords="offset points", fontsize=8, color="0.1", zorder=4, **AS_TEXT)
        extent = label.get_window_extent()
        for dx, dy in _label_offsets():
            # A text on the left ends at its place, one on the right begins there, one above or below is centered.
            end = point + np.array([dx, dy]) * scale
            low = end - np.array([extent.width * (1 - np.sign(dx)) / 2, extent.height / 2])
            box = np.concatenate([low - 2 * scale, low + np.array([extent.width, extent.height]) + 2 * scale])
            if box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1:
                continue
            led = math.hypot(dx, dy) > 14
            line = point + np.linspace(0.3 if led else 1.0, 1.0, 12)[:, None] * (end - point)
            if not (_overlaps(box, taken).any() or any(_overlaps(np.tile(dot, 2), taken).any() for dot in line[:-1])):
                break
        else:
            label.remove()
            continue
        label.set(position=(dx, dy), ha={1: "left", 0: "center", -1: "right"}[int(np.sign(dx))], va="center")
        taken = np.vstack([taken, box])
        if led:
            thin = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            ax.annotate("", at, (dx, dy), textcoords="offset points", arrowprops=thin)
            taken = np.vstack([taken, np.tile(line, 2)])
        written[i] = True
    return written


def _label_offsets() -> Iterator[tuple[float, float]]:
    """Yield offsets of a label from its point, in typographic points: small circles first, their sides first."""
    for radius in (6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 45.0):
        for angle in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240):
            dx, dy = radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))
            yield (0.0 if abs(dx) < 1e-9 else dx), (1.4 * dy if abs(dx) < 1e-9 else dy)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of the other boxes (left, low, right, high) whether the box overlaps it."""
    return (box[0] < others[:, 2]) & (others[:, 0] < box[2]) & (box[1] < others[:, 3]) & (others[:, 1] < box[3])
