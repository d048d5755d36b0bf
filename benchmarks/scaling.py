"""Loss against compute: what does a wider transformer, or a longer training, buy?

python benchmarks/scaling.py --out DIR [--widths 48 96 192] [--budgets .2 .6 2] [--latents DIR --recipe CONFIG]

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
import yaml
from lines import COLOURS, sheet, text
from transformer_variants import BATCH, GRIDS, SIZES, encoded, held_out_error, training_flops

from base_model.options import WEIGHTS
from base_model.pretrain import PretrainConfig, pretrain
from base_model.transformer import VideoTransformer
from base_model.variants import load_transformer
from core.files import append_line, atomic_write, read_lines
from eval.svg import tick_text, ticks

DATA = ("seed", "noise", "families", "codec", "clip")  # what encoded clips depend on, taken from the recipe


def recipe(path: str, latents: Path, num_clips: int) -> PretrainConfig:
    """The run of every point, but for its steps and start; `path` names the run that encoded `latents`."""
    data = (
        {name: value for name, value in yaml.safe_load(Path(path).read_text()).items() if name in DATA} if path else {}
    )
    data = {"codec": str(WEIGHTS / "vae"), "clip": str(WEIGHTS / "clip"), "noise": 0.1} | data
    return PretrainConfig(
        part="transformer",
        batch=BATCH,
        learning_rate=1e-3,
        warmup=20,
        decay=0.5,
        num_clips=num_clips,
        latents=str(latents),
        save_every=100,
        **data,
    )


def point(config: PretrainConfig, width: int, budget: float, held: tuple, out: Path) -> dict[str, float]:
    """Train one width for `budget` TFLOP, from weights that depend on the width alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        network = VideoTransformer(**SIZES, width=width)
    flops = training_flops(network, GRIDS[0])
    steps = max(1, round(budget * 1e12 / flops / config.batch))
    start, folder = out / f"start-{width}", out / f"{width}-{budget:g}"
    network.save_pretrained(start)
    run = pretrain(replace(config, steps=steps, start=str(start)), folder)
    return {
        "width": width,
        "budget": budget,
        "parameters": sum(value.numel() for value in network.parameters()),
        "steps": steps,
        "tflop": steps * config.batch * flops / 1e12,
        "loss": mean(held_out_error(load_transformer(run.folder / "transformer").eval(), held)),
    }


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
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.6, 2.0], help="TFLOP")
    parser.add_argument("--num-clips", type=int, default=1024, help="training clips")
    parser.add_argument("--latents", type=Path, help="folder of encoded clips; made in --out by default")
    parser.add_argument("--recipe", default="", help="config.yaml of the run that encoded --latents")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = recipe(options.recipe, options.latents or options.out / "latents", options.num_clips)
    held, table = encoded(64, "heldout"), options.out / "scaling.jsonl"
    for budget in options.budgets:
        for width in options.widths:
            done = read_lines(table) if table.exists() else []
            if not any((row["width"], row["budget"]) == (width, budget) for row in done):
                row = point(config, width, budget, held, options.out)
                append_line(table, row)
                print(row, flush=True)
    atomic_write(options.out / "scaling.svg", plot(read_lines(table)))


if __name__ == "__main__":
    main()
