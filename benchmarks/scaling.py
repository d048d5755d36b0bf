"""Loss against compute: what does a wider transformer, or a longer training, buy?

python benchmarks/scaling.py --out DIR [--widths 48 96 192] [--budgets .6 2 6 20]

Every point is a whole run of `soralign pretrain`, its rate fallen to zero, of as many steps as the budget (TFLOP of
matrix products, forward and backward) pays for at that width; so no point is a piece of another one's curve. Loss is
the velocity's error on held-out clips at fixed noise levels. Written to DIR: `scaling.jsonl`, to which a second call
adds what is missing, and `scaling.svg`.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from lines import COLOURS, sheet, text
from transformer_variants import encoded, recipe, trained

from core.files import append_line, atomic_write, read_lines
from eval.svg import tick_text, ticks


def plot(rows: list[dict[str, float]]) -> str:
    """A line per width over the compute spent, both axes logarithmic, as SVG."""
    xs, ys = [math.log10(row["tflop"]) for row in rows], [math.log10(row["loss"]) for row in rows]
    left, right, top, bottom = 60, 560, 30, 300

    def x(tflop: float) -> float:
        return left + (math.log10(tflop) - min(xs)) / (max(xs) - min(xs) or 1.0) * (right - left)

    def y(loss: float) -> float:
        return bottom - (math.log10(loss) - min(ys)) / (max(ys) - min(ys) or 1.0) * (bottom - top)

    parts = [text((left + right) / 2, bottom + 42, "training compute, TFLOP (logarithmic)", anchor="middle")]
    parts.append(text(8, top - 14, "held-out velocity error (logarithmic)"))
    for budget in sorted({row["budget"] for row in rows}):
        parts.append(text(x(budget), bottom + 20, f"{budget:g}", anchor="middle"))
    for tick in ticks(min(row["loss"] for row in rows), max(row["loss"] for row in rows)):
        parts.append(text(left - 8, y(tick) + 4, tick_text(tick), anchor="end"))
        parts.append(f'<path d="M{left} {y(tick):.1f}H{right}" stroke="#ddd"/>')
    for index, width in enumerate(sorted({row["width"] for row in rows})):
        own, colour = (
            sorted((row for row in rows if row["width"] == width), key=lambda row: row["tflop"]),
            COLOURS[index],
        )
        places = [f"{x(row['tflop']):.1f} {y(row['loss']):.1f}" for row in own]
        parts.append(f'<path d="M{"L".join(places)}" stroke="{colour}" stroke-width="2"/>')
        parts += ['<circle cx="{}" cy="{}" r="4" fill="{}"/>'.format(*place.split(), colour) for place in places]
        label = f"width {width}: {own[0]['parameters'] / 1e6:.1f} M parameters"
        parts.append(text(right + 14, top + 20 * index, label, colour))
    return sheet(780, 350, "".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 192])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.6, 2.0, 6.0, 20.0], help="TFLOP")
    parser.add_argument("--num-clips", type=int, default=8192, help="training clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, held = recipe(options.out, options.num_clips, 0), encoded(256, "heldout")
    table = options.out / "scaling.jsonl"
    for budget in options.budgets:
        for width in options.widths:
            done = read_lines(table) if table.exists() else []
            if not any((row["width"], row["budget"]) == (width, budget) for row in done):
                found = trained(replace(config, width=width), budget, held, options.out / f"{width}-{budget:g}")
                loss = mean(found.pop("errors"))
                row = {"width": width, "budget": budget, "loss": loss, **found}
                append_line(table, row)
                print(row, flush=True)
    atomic_write(options.out / "scaling.svg", plot(read_lines(table)))


if __name__ == "__main__":
    main()
