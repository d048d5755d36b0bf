"""Video sets filled by a model or by the sandbox; what a set already holds is kept, so a killed call goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import video
from core.errors import UserError
from core.files import atomic_write
from core.progress import track
from core.randomness import seed_for
from core.videoset import MANIFEST, VideoItem, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from base_model.protocol import Generator


def write_videos(
    generator: Generator,
    prompts: Sequence[str],
    out: Path | str,
    *,
    seed: int,
    num_steps: int,
    guidance: float,
    batch: int,
    lora_name: str | None = None,
) -> list[VideoItem]:
    """Generate one video a prompt into a video set; video i is drawn from (seed, i), so sets of two models pair up.

    What the set already holds is kept, so a killed call goes on where it was.
    Raises: UserError if the set holds other videos than these.
    """
    from base_model.sampler import generate_frames

    def draw(chosen: list[str], seeds: list[int]) -> Tensor:
        return generate_frames(
            generator,
            chosen,
            seeds=seeds,
            num_steps=num_steps,
            guidance=guidance,
            batch=batch,
        )

    seeds = [seed_for(seed, "video", index) for index in range(len(prompts))]
    return write_set(generator, prompts, seeds, out, draw, batch, generator.fps, lora_name)


def write_set(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    out: Path | str,
    draw: Callable[[list[str], list[int]], Tensor],
    batch: int,
    fps: float,
    lora_name: str | None,
) -> list[VideoItem]:
    """Fill a video set with what `draw` makes of (prompts, seeds), `batch` at a time.

    What the set already holds is kept, so a killed call goes on where it was. A clip of one frame is also written as
    images/<id>.png.
    Raises: UserError if the set holds other videos than these.
    """
    writer = Writer(out)
    there = {item.id: item for item in writer.items}
    names = [f"{index:05d}" for index in range(len(prompts))]
    for name, prompt, own in zip(names, prompts, seeds, strict=True):
        if name not in there:
            continue
        held, wanted = there[name], {"prompt": prompt, "seed": own, "model": generator.name, "lora": lora_name}
        other = [key for key, value in wanted.items() if getattr(held, key) != value]
        if other:
            raise UserError(
                f"{out} already holds other videos ('{name}' has another {' and '.join(other)}); choose another folder"
            )
    chunks = [range(start, min(start + batch, len(prompts))) for start in range(0, len(prompts), batch)]
    # A chunk of which a part is there is generated whole: in a batch of another size its last bits would differ.
    chunks = [chunk for chunk in chunks if any(names[index] not in there for index in chunk)]
    writes = _is_first(generator)
    for chunk in track(chunks, f"generating {Path(out).name}"):
        clips = draw([prompts[i] for i in chunk], [seeds[i] for i in chunk])
        for index, clip in zip(chunk, clips, strict=True):
            if names[index] in there or not writes:
                continue
            details = {"seed": seeds[index], "model": generator.name, "lora": lora_name, "fps": fps}
            if len(clip) == 1:
                (Path(out) / "images").mkdir(parents=True, exist_ok=True)
                video.write_png(Path(out) / "images" / f"{names[index]}.png", video.to_uint8(clip.numpy())[0])
            writer.append(clip.numpy(), prompts[index], id=names[index], **details)  # type: ignore[arg-type]
    return sorted(writer.items, key=lambda item: item.id)


def write_world(
    out: Path | str, count: int, *, seed: int, split: str = "train", noise: float = 0.0, most_objects: int = 3
) -> list[VideoItem]:
    """Draw `count` clips of a split into a video set with ground-truth state; keeps what is there.

    Raises: UserError on an unknown split, or if the set holds other videos.
    """
    from base_model.world.dataset import check_split, make_clip
    from base_model.world.spec import FPS

    check_split(split)
    options: dict[str, Any] = {"split": split, "noise": noise, "most_objects": most_objects}
    settle(Path(out) / "world.json", {"seed": seed, **options})
    writer = Writer(out)
    there = {item.id for item in writer.items}
    for index in track(range(count), f"drawing {Path(out).name}"):
        if f"{index:05d}" not in there:
            clip = make_clip(seed, index, **options)
            writer.append(
                clip.frames, clip.prompt, id=f"{index:05d}", seed=seed, model="world", fps=FPS, state=clip.state
            )
    return sorted(writer.items, key=lambda item: item.id)


def settle(path: Path, values: dict[str, Any]) -> None:
    """Leave in a file beside the videos how they are drawn, for whoever wants to know and for the next call.

    Of a call that was refused before its first video nothing is kept.
    Raises: UserError if the set was drawn otherwise.
    """
    if (path.parent / MANIFEST).is_file():
        if not path.is_file():
            raise UserError(
                f"{path.parent} already holds other videos (there is no {path.name}); choose another folder"
            )
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in values if name in before and before[name] != values[name]]
        if other:
            raise UserError(
                f"{path.parent} already holds videos drawn with other options ({', '.join(other)}); "
                "choose another folder"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(values, indent=1) + "\n")


def _is_first(generator: Generator) -> bool:
    """Whether this process is the one that writes, where a team of them shares every clip."""
    if generator.team == 1:
        return True
    import torch

    return torch.distributed.get_rank() == 0
