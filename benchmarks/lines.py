"""Lines as SVG, for the pictures of docs/: panels below each other, a colour per name, thin lines of one name alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Line = Sequence[tuple[float, float]]
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#000000")
LEFT, RIGHT, TOP, BOTTOM, HEIGHT, WIDTH = 48, 480, 30, 220, 250, 720  # of a panel, in pixels


@dataclass(frozen=True)
class Panel:
    """lines: the lines of every name. most: end of the horizontal axis, in `unit`. low, high: ends of the vertical one,
    which lines are cut at. level: a height that is marked."""

    title: str
    lines: Mapping[str, Sequence[Line]]
    most: float
    unit: str
    low: float
    high: float
    level: float | None = None


def reaches(line: Line, level: float) -> float:
    """Where a line first reaches `level`, straight between its points; infinite if it never does."""
    if line[0][1] >= level:
        return line[0][0]
    for (before, low), (after, high) in pairwise(line):
        if high >= level:
            return before + (level - low) / (high - low) * (after - before)
    return math.inf


def picture(panels: Sequence[Panel]) -> str:
    """The SVG file's text."""
    drawn = "".join(f'<g transform="translate(0 {HEIGHT * row})">{_panel(one)}</g>' for row, one in enumerate(panels))
    return sheet(WIDTH, HEIGHT * len(panels), drawn)


def sheet(width: int, height: int, drawn: str) -> str:
    """What is drawn on white, as an SVG file's text."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" fill="none" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>\n'
    )


def _panel(panel: Panel) -> str:
    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * value / panel.most

    def down(value: float) -> float:
        inside = min(max(value, panel.low), panel.high)
        return BOTTOM - (BOTTOM - TOP) * (inside - panel.low) / (panel.high - panel.low)

    parts = [text(LEFT, 16, panel.title, "#000")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = panel.low + share * (panel.high - panel.low)
        parts.append(f'<path d="M{LEFT} {down(value):.0f}H{RIGHT}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, down(value) + 4, f"{value:.3g}", anchor="end"))
    if panel.level is not None:
        parts.append(f'<path d="M{LEFT} {down(panel.level):.0f}H{RIGHT}" stroke="#444" stroke-dasharray="4"/>')
    parts += [text(LEFT, 236, "0"), text(RIGHT, 236, f"{panel.most:g} {panel.unit}", anchor="end")]
    for row, (name, several) in enumerate(panel.lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        for line in several:
            points = " ".join(f"{across(x):.0f},{down(y):.0f}" for x, y in line)
            parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="1.3"/>')
        parts.append(text(RIGHT + 16, 40 + 18 * row, name, colour))
    return "".join(parts)


def text(x: float, y: float, words: str, colour: str = "#444", anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'
