"""Do the abilities do what they say? Each is scored by the sandbox's reader, which gets the state back from pixels.

    python benchmarks/abilities.py [--model sandbox] [--num-clips 48] [--guidance G] [--only image,...] [--out FILE]

image      a clip from its first frame, with and without its prompt: is the frame kept, are colour and shape kept?
extension  nine frames of a true clip given, eight made: velocity against the truth inside the training range and on
           PhyWorld's splits (Kang et al. 2024), beside what plain continuation at constant velocity would get
backward   eight frames given, nine made before them: the same
bridge     five frames and four frames given, eight between: the same
loop       is the step from the last frame to the first like any other step?
edit       a clip of one colour, asked for another: colour reached and path kept, by strength
drift      60 seconds by rolling extension, by ten seconds: frames in which the object is seen in its colour; colour,
           shape, size and ground of the last two seconds; memory
unseen     text alone: colour and shape of pairs that training never showed (there are 124), against pairs it did;
           every prompt with three noises
bits       upper bound on the bits per latent number of true clips, with their prompt, another, and none
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import base_model
from base_model import tasks, vp
from base_model.flow import Schedule
from base_model.given import Request
from base_model.protocol import Condition, Generator
from base_model.sampler import Sampling, generate_frames
from base_model.world import dataset, motion, reader
from base_model.world.caption import caption, parse
from base_model.world.spec import COLOURS
from core.randomness import torch_generator
from core.stats import Interval, mean_interval, wilson

SEED = 2024  # of clips that no training and no other benchmark draws
NOISES = 3  # a prompt, where words alone are asked for
MOVING = ("uniform", "projectile", "slide")  # one object, its whole path in sight
Results = dict[str, Interval]


def clips_of(split: str, count: int, families: Sequence[str] = MOVING) -> list[dataset.Clip]:
    """One-object clips of a split with descriptive prompts."""
    options = {"split": split, "style": "descriptive", "most_objects": 1, "families": families}
    return [dataset.make_clip(SEED, index, **options) for index in range(count)]  # type: ignore[arg-type]


def frames_of(clips: Sequence[dataset.Clip]) -> Tensor:
    return torch.from_numpy(np.stack([clip.frames for clip in clips]))


def request(generator: Generator, prompts: Sequence[str], sampling: Sampling) -> Request:
    return Request(generator, list(prompts), list(range(len(prompts))), sampling)


def share(values: Sequence[bool]) -> Interval:
    return wilson(float(sum(values)), 0.0, len(values))


def path_of(frames: Tensor, colour: str) -> np.ndarray:
    """[time, 2] px of the object of that colour, NaN where it is not seen."""
    tracks = {track.colour: track for track in reader.read(frames.numpy()).tracks}
    if colour not in tracks:
        return np.full((len(frames), 2), np.nan)
    return np.where(tracks[colour].seen[:, None], tracks[colour].position, np.nan)


def image(generator: Generator, count: int, sampling: Sampling) -> Results:
    clips = clips_of("heldout", count, ("uniform", "projectile", "slide", "bounce", "static"))
    true = frames_of(clips)
    found: Results = {}
    for name, prompts in (("prompt", [clip.prompt for clip in clips]), ("no prompt", [""] * count)):
        made = tasks.image_to_video(request(generator, prompts, sampling), true[:, :1], 17)
        seen = [motion.match(reader.read(clip.numpy()), one.spec) for clip, one in zip(made, clips, strict=True)]
        found[f"{name}: first frame exact"] = share([torch.equal(a[0], b[0]) for a, b in zip(made, true, strict=True)])
        for key in ("colour", "shape", "size", "family"):
            found[f"{name}: {key} right"] = share([one[key] for one in seen])
    return found


def velocity_errors(
    make: Callable[[Request, Tensor], Tensor],
    made_frames: slice,
    generator: Generator,
    count: int,
    sampling: Sampling,
    guess: Callable[[dataset.Clip], float] | None = None,
) -> Results:
    """Mean distance of made from true velocity, px/frame, over `made_frames` and the steps into and out of them.

    Args:
        make: (request, true frames [n, 17, 3, 64, 64]) -> 17 frames, of which `made_frames` are made.
        guess: error of a guess without a model, to compare with clip by clip.
    """
    found: Results = {}
    first, last = max(0, made_frames.start - 1), min(17, made_frames.stop + 1)
    for split in ("train", "velocity", "radius", "both"):
        clips = clips_of(split, count)
        true = frames_of(clips)
        made = make(request(generator, [clip.prompt for clip in clips], sampling), true)
        errors, floors, lost, speeds, guesses = [], [], [], [], []
        for one, clip, real in zip(clips, made, true, strict=True):
            position = one.state["position"][first:last, 0]
            steps = np.diff(position, axis=0)
            paths = [path_of(frames, one.spec.objects[0].colour)[first:last] for frames in (clip, real)]
            distance = [np.linalg.norm(np.diff(path, axis=0) - steps, axis=1) for path in paths]
            lost.append(bool(np.isnan(paths[0]).any(axis=1).mean() > 0.25))
            errors.append(np.nan if lost[-1] else float(np.nanmean(distance[0])))
            floors.append(float(np.nanmean(distance[1])) if np.isfinite(distance[1]).any() else np.nan)
            speeds.append(float(np.linalg.norm(steps, axis=1).mean()))
            guesses.append(guess(one) if guess is not None else np.nan)
        found[f"{split}: velocity error, px/frame"] = mean_interval(errors)
        found[f"{split}: reader's own error, px/frame"] = mean_interval(floors)
        found[f"{split}: true speed, px/frame"] = mean_interval(speeds)
        found[f"{split}: object lost"] = share(lost)
        if guess is not None:
            found[f"{split}: constant velocity's error, px/frame"] = mean_interval(guesses)
            found[f"{split}: the model's less that, same clips"] = mean_interval(list(np.subtract(errors, guesses)))
    return found


def constant_velocity(clip: dataset.Clip) -> float:
    """Error of going on from frame 8 as from frame 7 to it, px/frame."""
    position = clip.state["position"][:, 0]
    return float(np.linalg.norm(np.diff(position[8:], axis=0) - (position[8] - position[7]), axis=1).mean())


def _forward(ask: Request, true: Tensor) -> Tensor:
    return tasks.extend(ask, true[:, :9], 8)


def _backward(ask: Request, true: Tensor) -> Tensor:
    return tasks.prepend(ask, true[:, 9:], 9)


def _between(ask: Request, true: Tensor) -> Tensor:
    return tasks.transition(ask, true[:, :5], true[:, 13:], 8)


def loop(generator: Generator, count: int, sampling: Sampling) -> Results:
    clips = clips_of("heldout", count, ("uniform", "pendulum", "bounce"))
    true = frames_of(clips)
    made = tasks.loop(request(generator, [clip.prompt for clip in clips], sampling), true[:, :9], 8)
    steps = (torch.cat([made, made[:, :1]], 1).diff(dim=1)).abs().flatten(2).mean(2)  # [n, 17], the last is the seam
    usual = steps[:, :8].mean(1)
    jump = (made[:, :1] - made[:, 8:9]).abs().flatten(1).mean(1)
    return {
        "seam over a usual step": mean_interval((steps[:, -1] / usual).tolist()),
        "plain repeat's seam over a usual step": mean_interval((jump / usual).tolist()),
        "largest made step over a usual step": mean_interval((steps[:, 8:].amax(1) / usual).tolist()),
    }


def edit(generator: Generator, count: int, sampling: Sampling) -> Results:
    clips = clips_of("train", count, ("uniform", "slide", "static"))
    true = frames_of(clips)
    names = list(COLOURS)
    wanted = [names[(names.index(clip.spec.objects[0].colour) + 3) % len(names)] for clip in clips]
    specs = [
        replace(clip.spec, objects=(replace(clip.spec.objects[0], colour=colour),))
        for clip, colour in zip(clips, wanted, strict=True)
    ]
    found: Results = {}
    for strength in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        made = tasks.edit(request(generator, [caption(spec) for spec in specs], sampling), true, strength)
        reached, away = [], []
        for clip, one, colour in zip(made, clips, wanted, strict=True):
            tracks = reader.read(clip.numpy()).tracks
            reached.append({track.colour for track in tracks} == {colour})
            path = path_of(clip, tracks[0].colour) if len(tracks) == 1 else np.full((17, 2), np.nan)
            off = np.linalg.norm(path - one.state["position"][:, 0], axis=1)
            away.append(float(np.nanmean(off)) if np.isfinite(off).any() else np.nan)
        found[f"strength {strength}: new colour reached"] = share(reached)
        found[f"strength {strength}: distance from the old path, px"] = mean_interval(away)
    return found


def drift(generator: Generator, count: int, sampling: Sampling, seconds: int = 60) -> Results:
    """Scenes that can last: a still object and a pendulum, from a true first second."""
    clips = clips_of("train", count, ("static", "pendulum"))
    ask = request(generator, [clip.prompt for clip in clips], sampling)
    found: Results = {}
    chunks = tasks.roll(ask, frames_of(clips)[:, :9])
    area: dict[int, float] = {}
    block = int(10 * generator.fps)
    memory = []
    for after in range(10, seconds + 1, 10):
        frames = torch.cat(list(tasks.first_frames(chunks, block)), 1)
        right: dict[str, list[bool]] = {"colour": [], "shape": []}
        ratio, ground, shown = [], [], []
        for index, (clip, one) in enumerate(zip(frames, clips, strict=True)):
            shown.append(float(np.isfinite(path_of(clip, one.spec.objects[0].colour)).all(1).mean()))
            seen = reader.read(clip[-17:].numpy())
            matched = motion.match(seen, one.spec)
            for key in right:
                right[key].append(matched[key])
            size = float(np.median(seen.tracks[0].area)) if len(seen.tracks) == 1 else np.nan
            first = area.setdefault(index, np.pi * float(one.state["radius"][0]) ** 2)
            ratio.append(size / first)
            ground.append(seen.residual)
        name = f"{after} s"
        found[f"{name}: frames that show the object"] = mean_interval(shown)
        for key in right:
            found[f"{name}: {key} right"] = share(right[key])
        found[f"{name}: area over the true area"] = mean_interval(ratio)
        found[f"{name}: residual of ground and props"] = mean_interval(ground)
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"peak memory after 10 s {memory[0]:.0f} MiB, after {seconds} s {memory[-1]:.0f} MiB")
    return found


def unseen(generator: Generator, count: int, sampling: Sampling) -> Results:
    found: Results = {}
    for split in ("unseen", "heldout", "train"):
        prompts = dataset.prompts(SEED, count, split, style="descriptive", most_objects=1) * NOISES
        seeds = [1000 * noise + number for noise in range(NOISES) for number in range(count)]
        made = generate_frames(generator, prompts, seeds=seeds, sampling=sampling)
        seen = []
        for prompt, clip in zip(prompts, made, strict=True):
            spec = parse(prompt)
            assert spec is not None
            seen.append(motion.match(reader.read(clip.numpy()), spec))
        for key in ("colour", "shape", "size", "family"):
            found[f"{split}: {key} right"] = share([one[key] for one in seen])
        found[f"{split}: colour and shape right"] = share([one["colour"] and one["shape"] for one in seen])
    return found


@torch.no_grad()
def bits(generator: Generator, count: int, sampling: Sampling, num_levels: int = 48) -> Results:
    """Levels are even in the log of the signal-to-noise ratio, down to a noise of .03 of a latent's deviation."""
    clips = clips_of("heldout", count, ("uniform", "projectile", "slide", "bounce", "static"))
    clean = torch.cat([generator.encode(part) for part in frames_of(clips).split(sampling.batch)])
    schedule = Schedule(torch.linspace(4.0, -3.5, num_levels, dtype=torch.float64).sigmoid())
    noise = schedule.sigma.tolist()
    own = [clip.prompt for clip in clips]
    found: Results = {}
    for name, prompts in (("own prompt", own), ("another's prompt", own[1:] + own[:1]), ("no prompt", [""] * count)):
        condition = generator.encode_prompts(prompts)

        def predict_clean(noisy: Tensor, index: int, condition: Condition = condition) -> Tensor:
            step = torch.full((len(noisy),), index)
            return noisy - noise[index] * generator.predict(noisy, step, schedule, condition)

        rng = torch_generator(SEED, "bits")
        bound = vp.bits_per_dimension(clean, predict_clean, [1.0 - level for level in noise], noise, rng)
        found[f"{name}: bits per latent number, at most"] = mean_interval(bound.tolist())
    return found


PARTS: dict[str, Callable[[Generator, int, Sampling], Results]] = {
    "image": image,
    "extension": partial(velocity_errors, _forward, slice(9, 17), guess=constant_velocity),
    "backward": partial(velocity_errors, _backward, slice(0, 9)),
    "bridge": partial(velocity_errors, _between, slice(5, 13)),
    "loop": loop,
    "edit": edit,
    "drift": drift,
    "unseen": unseen,
    "bits": bits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--num-clips", type=int, default=48)
    parser.add_argument("--guidance", type=float, default=None, help="in place of the model's usual one")
    parser.add_argument("--only", default=",".join(PARTS), help="some of: " + ", ".join(PARTS))
    parser.add_argument("--out", default="", help="also write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = base_model.load(options.model)
    sampling = generator.usual if options.guidance is None else replace(generator.usual, guidance=options.guidance)
    results = {}
    for name in options.only.split(","):
        found = PARTS[name](generator, options.num_clips, sampling)
        print(f"\n{name}")
        for key, one in found.items():
            print(f"  {key:44s} {one.value:7.3f} [{one.low:.3f}, {one.high:.3f}] of {one.n}", flush=True)
        results[name] = {key: asdict(one) for key, one in found.items()}
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
