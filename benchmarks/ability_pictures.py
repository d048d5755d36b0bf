"""One picture per ability for the README: contact strips, given frames framed in white.

    python benchmarks/ability_pictures.py [--model sandbox] [--out docs/abilities] [--seeds 0 1 2]

Every picture is docs/abilities/<ability>.png, frames over time from left to right. All seeds are shown as they came, so
that failures show as often as they happen: one below the other, or side by side where a row is something else.
Variations are of the second one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import base_model
from base_model import tasks
from base_model.given import Request
from base_model.protocol import Generator, VideoSize
from base_model.sampler import Sampling, generate_frames
from base_model.world import dataset
from base_model.world.caption import caption
from base_model.world.spec import ObjectSpec
from core import video

COLUMNS, GAP, BORDER = 9, 2, 2
Picture = NDArray[np.uint8]


def strip(clip: Tensor, given: Sequence[int] = (), columns: int = COLUMNS) -> Picture:
    """Frames of clip [time, 3, H, W] spread over time, uint8 [H + borders, width, 3]; given ones framed in white."""
    tiles = []
    for index in np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int):
        tile = np.pad(video.to_uint8(clip[index].numpy()), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)))
        if int(index) in given:
            tile[:BORDER] = tile[-BORDER:] = tile[:, :BORDER] = tile[:, -BORDER:] = 255
        tiles.append(np.pad(tile, ((0, GAP), (0, GAP), (0, 0))))
    return np.concatenate(tiles, axis=1)


def stack(rows: Sequence[Picture]) -> Picture:
    """Strips one below the other, shorter ones filled with black."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def below(clips: Tensor, given: Sequence[int] = (), columns: int = COLUMNS) -> Picture:
    """The clips [seed, time, 3, H, W] of all seeds, a strip each, one below the other."""
    return stack([strip(clip, given, columns) for clip in clips])


def beside(clips: Tensor, columns: int) -> Picture:
    """The clips [seed, time, 3, H, W] of all seeds, a strip of `columns` frames each, in one row."""
    return np.concatenate([strip(clip, columns=columns) for clip in clips], axis=1)


def true_clip(family: str, index: int, colour: str | None = None) -> dataset.Clip:
    """The next held-back clip of one object of a family from `index` on, of a colour where one is asked for."""
    while True:
        clip = dataset.make_clip(77, index, style="descriptive", most_objects=1, families=(family,))
        if colour in (None, clip.spec.objects[0].colour):
            return clip
        index += 1


def pictures(generator: Generator, seeds: Sequence[int], sampling: Sampling) -> dict[str, Picture]:
    """Name -> picture of every ability."""

    def ask(prompt: str) -> Request:
        return Request(generator, [prompt] * len(seeds), seeds, sampling)

    def text(prompt: str, size: VideoSize | None = None) -> Tensor:
        return generate_frames(generator, [prompt] * len(seeds), seeds=seeds, sampling=sampling, size=size)

    def frames(clip: dataset.Clip) -> Tensor:
        return torch.from_numpy(clip.frames)[None]

    bounce = "a medium red ball falls under gravity and bounces on the floor"
    slide = true_clip("slide", 0)
    arc, arc_two = true_clip("projectile", 0), true_clip("projectile", 20)
    pendulum, uniform = true_clip("pendulum", 0), true_clip("uniform", 0, "red")
    made: dict[str, Picture] = {"text_to_video": below(text(bounce))}
    stills = ["a large yellow triangle rests without moving", "a large cyan square rests without moving", bounce]
    made["text_to_image"] = np.concatenate([beside(text(one, VideoSize(1, 64, 64)), 1) for one in stills], axis=1)
    made["sizes"] = stack(
        [
            beside(text("a large green ball moves right at constant speed without gravity", size), columns)
            for size, columns in ((VideoSize(17, 64, 96), 2), (VideoSize(17, 96, 64), 3), (VideoSize(33, 64, 64), 3))
        ]
    )
    made["image_to_video"] = below(tasks.image_to_video(ask(arc.prompt), frames(arc)[:, :1], 17), [0])
    made["extend_forward"] = below(tasks.extend(ask(slide.prompt), frames(slide)[:, :9], 8), range(9))
    made["extend_backward"] = below(tasks.prepend(ask(arc.prompt), frames(arc)[:, 9:], 9), range(9, 17))
    looped = tasks.loop(ask(pendulum.prompt), frames(pendulum)[:, :9], 8)
    made["loop"] = below(torch.cat([looped, looped[:, :1]], 1), [*range(9), 17], columns=10)
    ends = tasks.interpolate(ask(uniform.prompt), frames(uniform)[:, :1], frames(uniform)[:, 16:], 17)
    made["interpolation"] = below(ends, [0, 13, 14, 15, 16])
    joined = tasks.transition(ask(arc_two.prompt), frames(arc)[:, :9], frames(arc_two)[:, 8:], 8)
    made["transition"] = below(joined, [*range(9), *range(17, 26)], columns=13)
    two = next(
        clip
        for index in range(200)
        if len((clip := dataset.make_clip(78, index, style="descriptive", families=("static",))).spec.objects) == 2
        and all(item.colour != "purple" for item in clip.spec.objects)  # the colour asked for: never twice in a clip
    )
    hole = torch.zeros(64, 64, dtype=torch.bool)
    x, y = two.state["position"][0, 0]
    top, left = (int(np.clip(round(float(place - 16) / 16) * 16, 0, 32)) for place in (y, x))
    hole[top : top + 32, left : left + 32] = True
    other = replace(two.spec, objects=(ObjectSpec("purple", "ball", "medium"), two.spec.objects[1]))
    painted = tasks.inpaint(ask(caption(other)), frames(two), hole)
    made["inpainting"] = stack([strip(torch.where(hole, 0.7, frames(two)[0])), below(painted)])
    recoloured = ask(uniform.prompt.replace("red", "blue"))
    edits = [beside(tasks.edit(recoloured, frames(uniform), dial), 3) for dial in (0.6, 0.8, 0.9)]
    made["editing"] = stack([strip(frames(uniform)[0], range(17)), *edits])
    made["variations"] = below(tasks.variations(ask(bounce), [seeds[1]] * len(seeds), 0.85))
    still = true_clip("pendulum", 5)
    begun = frames(still)[:, :9].expand(len(seeds), -1, -1, -1, -1)
    rolled = tasks.first_frames(tasks.roll(ask(still.prompt), begun), 471)
    made["rolling_60_seconds"] = below(torch.cat([begun, *rolled], 1), range(9), columns=13)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--out", default="docs/abilities")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = base_model.load(options.model)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(generator, options.seeds, generator.usual).items():
        path = folder / f"{name}.png"
        # Flat colours: a palette of 128 loses nothing one sees, and a file is a few kilobytes.
        Image.fromarray(picture).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}  {path.stat().st_size / 1024:.1f} KiB")


if __name__ == "__main__":
    main()
