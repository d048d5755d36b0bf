"""`soralign reward VERB`: votes to a reward, videos to scores, what fools it, it over HTTP, and the expander of prompts
that it teaches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import address, video, videoset
from core.cli import option, parse, required, settings_of, verb
from core.errors import UserError, first_line
from core.files import atomic_write, finite_or_null
from core.preferences import existing
from core.preferences_types import WHICH_PROJECT
from core.progress import track
from reward.motion_lessons import Lessons, examined, teach
from reward.prompt_expansion import ExpanderConfig
from reward.train_config import TrainConfig
from reward.vlm import VlmConfig

if TYPE_CHECKING:
    from torch import Tensor

    from core.videoset import VideoItem
    from reward.audit import Finding

BATCH = 16  # videos judged at once
REWARD = "a reward by name, NAME:WEIGHTS, the folder of a trained one, or the URL of a server"


def reward(argv: list[str]) -> None:
    """`soralign reward VERB ...`."""
    verb(
        argv,
        {
            "train": train,
            "vlm": vlm,
            "score": score,
            "audit": audit,
            "serve": serve,
            "expander": expander,
            "expand": expand,
            "motion-tower": motion_tower,
        },
        "soralign reward",
    )


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Learn a reward from the votes of a store; --out gets the model and report.json."""

    store: str = required("the votes: an SQLite file, or a postgresql:// URL")
    out: str = required("folder for the reward")
    project: str | None = option(None, WHICH_PROJECT)
    backbone: str = option(
        "sandbox", "sandbox; transformers:HUB_ID_OR_FOLDER (VideoMAE, V-JEPA 2, CLIP, ...); latent:GENERATOR"
    )
    clip: str | None = option(None, "folder of the sandbox's CLIP; the shipped one if not given")


@dataclass(frozen=True, kw_only=True)
class TrainVlm(VlmConfig):
    """Teach a vision-language model the votes of a store, by LoRA; --out gets the adapter and report.json."""

    store: str = required("the votes: an SQLite file, or a postgresql:// URL")
    out: str = required("folder for the reward")
    project: str | None = option(None, WHICH_PROJECT)
    weights: str = option("Qwen/Qwen2-VL-2B-Instruct", "hub id or folder of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL")
    num_frames: int = option(12, "evenly spaced frames that the model sees of a video")
    max_pixels: int = option(448 * 448, "of a frame; larger ones are scaled down")

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "num_frames", "max_pixels")


@dataclass(frozen=True)
class Score:
    """Score the videos of a set, one JSON line a video."""

    videoset: str = required("folder of videos with prompts")
    reward: str = required(REWARD)
    out: str | None = option(None, "file for the lines; the terminal if not given")


@dataclass(frozen=True)
class Audit:
    """Try known exploits on a reward: which spoilt copies of these videos does it pay for?"""

    videoset: str = required("folder of videos with prompts, best sampled from the base model")
    reward: str = required(REWARD)
    num_videos: int = option(64, "how many of the videos are tried")
    store: str | None = option(None, "store of the votes behind it: is a side preferred there?")
    project: str | None = option(None, WHICH_PROJECT)
    out: str | None = option(None, "file for the findings as JSON, beside the table")
    seed: int = option(0, "of noise and shuffling")


@dataclass(frozen=True)
class Serve:
    """Serve a reward over HTTP, for `--reward http://HOST:PORT`. The token is taken from the environment variable
    SORALIGN_REWARD_TOKEN, here and by the client."""

    reward: str = required(REWARD)
    host: str = option("127.0.0.1", "address to listen on; any but this machine needs a token")
    port: int = option(8700, "port to listen on; 0 takes a free one")
    device: str = option("cpu", "where videos are judged, as cpu or cuda:1")
    max_mb: int = option(1024, "size of one request in MB, at most")
    max_batch: int = option(32, "videos judged in one call, at most")

    def __post_init__(self) -> None:
        _at_least_one(self, "max_mb", "max_batch")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must lie between 0 and 65535, seen {self.port}")


@dataclass(frozen=True, kw_only=True)
class TrainExpander(ExpanderConfig):
    """Teach a language model to expand short prompts: it copies detailed captions, then learns from video scores."""

    out: str = required("folder for the expander and its scores")
    prompts: str = required("file with one short prompt a line to learn on")
    reward: str = required(REWARD)
    model: str = option("sandbox", "the generator whose videos are scored")
    weights: str | None = option(None, "hub id or folder of a language model; a tiny one for the sandbox if not given")
    captions: str | None = option(None, "JSON lines {short, detailed} to copy first; the sandbox's if not given")
    num_captions: int = option(2000, "how many captions of the sandbox are copied")
    copy_epochs: int = option(10, "passes over the captions")
    denoising_steps: int = option(10, "of each video")

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "num_captions", "copy_epochs", "denoising_steps")


@dataclass(frozen=True)
class Expand:
    """Expand a file of prompts, one a line, for `soralign generate --prompts`."""

    prompts: str = required("file with one prompt a line")
    expander: str = required("folder of an expander, or hub id of a language model")
    out: str = required("file for the expanded prompts, in the same order")
    seed: int = option(0, "of drawing")


def train(argv: list[str]) -> None:
    """learn a reward from the votes of a store"""
    from base_model.text import load_clip
    from reward import backbone, latent
    from reward import train as trainer
    from reward.report import summary

    options = parse(Train, argv, "soralign reward train")
    _check_folder(options.out)
    if options.clip is not None and not (Path(options.clip) / "config.json").is_file():
        raise UserError(f"--clip {options.clip!r} holds no CLIP (no config.json); leave it out for the shipped one")
    store = existing(options.store, options.project)
    config = settings_of(TrainConfig, options)
    kind, _, weights = options.backbone.partition(":")
    clip = load_clip(options.clip) if kind == "sandbox" else None
    seen = backbone.load(kind, weights or "sandbox", clip)
    if isinstance(seen, backbone.LatentBackbone):
        _, report = latent.train(store, seen, config, options.out)
    else:
        _, report = trainer.train(store, seen, config, options.out)
    print(summary(report))
    print(f"reward: {options.out}  (use it with `soralign align ddpo --reward {options.out}`)")


def vlm(argv: list[str]) -> None:
    """teach a vision-language model the votes of a store"""
    from reward import vlm as trainer
    from reward.report import summary

    options = parse(TrainVlm, argv, "soralign reward vlm")
    _check_folder(options.out)
    store = existing(options.store, options.project)
    config = settings_of(VlmConfig, options)
    shown = {"num_frames": options.num_frames, "max_pixels": options.max_pixels}
    report = trainer.train(store.votes(), options.weights, config, options.out, **shown)
    print(summary(report))
    print(f"reward: {options.out}  (use it with `soralign align ddpo --reward {options.out}`)")


def score(argv: list[str]) -> None:
    """score the videos of a set"""
    import reward as room
    from reward.preference_model import PreferenceModel

    options = parse(Score, argv, "soralign reward score", positional=("videoset",))
    judge, items = room.load(options.reward), videoset.read(options.videoset)
    start = Path(options.out).parent if options.out is not None else Path()  # of the videos' paths in the lines
    rows: list[dict[str, Any]] = []
    for batch in track(list(_batches(items)), "scoring"):
        frames, prompts = _frames(batch), [item.prompt for item in batch]
        if isinstance(judge, PreferenceModel):  # pairs on which its heads disagree are the ones to ask people about
            scores, each = judge.judged(frames, prompts)
            heads = [{"heads": [_number(one) for one in column]} for column in each.T]
        else:
            scores, heads = judge(frames, prompts), [{}] * len(batch)
        for index, item in enumerate(batch):
            parts = {name: _number(values[index]) for name, values in scores.parts.items()}
            row: dict[str, Any] = {"id": item.id, "prompt": item.prompt}
            row |= {"video": Path(os.path.relpath(item.video, start)).as_posix()}
            row |= {"reward": f"{judge.name} {judge.version}", "total": _number(scores.total[index]), "parts": parts}
            rows.append(row | heads[index])
    finite: list[float] = [row["total"] for row in rows if row["total"] is not None]
    if options.out is not None:
        atomic_write(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    mean = f"mean {sum(finite) / len(finite):.4f} {judge.unit}" if finite else "no finite score"
    where = f"; lines in {options.out}" if options.out is not None else ""
    print(f"{judge.name} ({judge.version}): {len(finite)} of {len(rows)} videos scored, {mean}{where}")


def audit(argv: list[str]) -> None:
    """try known exploits on a reward"""
    import reward as room
    from reward import audit as auditor

    options = parse(Audit, argv, "soralign reward audit", positional=("videoset",))
    if options.num_videos < 2:
        raise UserError(f"--num-videos must be at least 2, seen {options.num_videos}")
    store = None if options.store is None else existing(options.store, options.project)
    judge, items = room.load(options.reward), videoset.read(options.videoset)
    step = max(1, len(items) // options.num_videos)
    batches = [
        (_frames(batch), [item.prompt for item in batch]) for batch in _batches(items[::step][: options.num_videos])
    ]
    found = auditor.audit(judge, list(track(batches, "spoiling")), options.seed)
    told: dict[str, Any] = {
        "reward": f"{judge.name} {judge.version}",
        "findings": [_told(finding) for finding in found.exploits],
        "formats": [_told(finding) for finding in found.formats],
        "motion_correlation": found.motion_correlation,
        "motion_quarters": found.motion_quarters,
    }
    for title, findings in (("exploit", found.exploits), ("format", found.formats)):
        print(f"{title:<14}{'verdict':<10}{'change':>8}{'95 % interval':>20}{'higher':>8}   (in spreads)")
        for finding in findings:
            change = finding.change
            between = f"[{change.low:+.2f}, {change.high:+.2f}]"
            verdict = f"{finding.exploit:<14}{finding.verdict:<10}{change.value:>+8.2f}{between:>20}"
            print(f"{verdict}{finding.share_higher:>8.0%}")
    print(f"{judge.name} pays for: {', '.join(found.paid) or 'none of these'}")
    correlation = "-" if found.motion_correlation is None else f"{found.motion_correlation:+.2f}"
    quarters = " ".join(f"{value:+.2f}" for value in found.motion_quarters)
    print(f"correlation of the score with motion: {correlation}; by quarters of motion: {quarters or '-'}")
    if store is not None:
        bias = auditor.position_bias(store.votes())
        told["left_wins"] = {"value": bias.value, "low": bias.low, "high": bias.high, "n": bias.n}
        share = f"{bias.value:.3f} [{bias.low:.3f}, {bias.high:.3f}] of {bias.n}"
        print(f"votes for the left side: {share if bias.n else 'none was given on a screen'}")
    if options.out is not None:
        atomic_write(options.out, json.dumps(finite_or_null(told), indent=2) + "\n")


def serve(argv: list[str]) -> None:
    """serve a reward over HTTP"""
    import torch
    import uvicorn

    import reward as room
    from reward.remote import TOKEN
    from reward.server import Limits, application

    options = parse(Serve, argv, "soralign reward serve", positional=("reward",))
    token = os.environ.get(TOKEN) or None
    if options.host not in ("127.0.0.1", "localhost", "::1") and token is None:
        raise UserError(
            f"--host {options.host} can be reached from outside: set {TOKEN}, here and where the client runs"
        )
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device!r} cannot be used here: {first_line(error)}") from None
    judge = room.load(options.reward)
    limits = Limits(max_bytes=options.max_mb * 10**6, max_batch=options.max_batch, device=options.device)
    server = uvicorn.Server(uvicorn.Config(application(judge, token, limits), log_level="warning"))
    with address.listening(options.host, options.port) as door:
        print(f"serving {judge.name} ({judge.version}) on {address.url(door)}", flush=True)
        try:
            server.run([door])
        except KeyboardInterrupt:
            print()


def expander(argv: list[str]) -> None:
    """teach a language model to expand prompts"""
    import datasets
    from transformers.utils import logging

    import base_model
    import reward as room
    from core import prompts
    from reward import prompt_expansion

    options = parse(TrainExpander, argv, "soralign reward expander")
    _check_folder(options.out)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    asked = list(dict.fromkeys(prompts.read(options.prompts)))
    if options.captions is None:
        pairs = prompt_expansion.sandbox_captions(options.num_captions, options.seed)
    else:
        pairs = prompt_expansion.read_captions(Path(options.captions))
    config = settings_of(ExpanderConfig, options)
    learning, held_out = prompt_expansion.split(asked, config)
    judge, out = room.load(options.reward), Path(options.out)
    if options.weights is None:
        model = prompt_expansion.tiny_expander(
            [text for pair in pairs for text in pair] + asked, out, seed=options.seed
        )
    else:
        model = prompt_expansion.Expander(options.weights)
    prompt_expansion.copy_captions(model, pairs, options.copy_epochs)
    score = prompt_expansion.video_score(
        base_model.load(options.model), judge, options.denoising_steps, out / "scores.jsonl"
    )
    found = prompt_expansion.teach(model, learning, held_out, score, config)
    model.save(out)
    atomic_write(out / "report.json", json.dumps(finite_or_null(found), indent=2) + "\n")
    means = ", ".join(f"{found[name]:.4f} {name}" for name in ("short", "copied", "taught"))
    print(f"{judge.name} of videos of {len(held_out)} held-out prompts: {means}")
    for name in ("short", "copied"):
        gain = found[f"over_{name}"]
        between = (
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}]" if math.isfinite(gain["low"]) else "(one prompt: no interval)"
        )
        print(f"taught over {name}: {gain['difference']:+.4f} {between}, n={gain['n']}")
    print(f"expander: {out}  ({found['words_kept']:.0%} of the prompts' words stand in its expansions)")


def expand(argv: list[str]) -> None:
    """expand a file of prompts"""
    from transformers.utils import logging

    from core import prompts
    from reward.prompt_expansion import Expander

    options = parse(Expand, argv, "soralign reward expand", positional=("prompts",))
    logging.disable_progress_bar()
    asked, model = prompts.read(options.prompts), Expander(options.expander)
    told = [model.expand(prompt, options.seed) for prompt in track(asked, "expanding")]
    atomic_write(options.out, "".join(f"{text}\n" for text in told))
    print(f"{len(told)} prompts expanded: {options.out}")


def motion_tower(argv: list[str]) -> None:
    """teach the sandbox's motion tower anew"""
    lessons = parse(Lessons, argv, "soralign reward motion-tower")
    path = Path(lessons.out)
    if path.is_dir():
        raise UserError(f"--out {lessons.out!r} is a folder; give the name of a .safetensors file")
    tower = teach(lessons)
    tower.save(path)
    words, faults = examined(tower, lessons)
    print(f"on clips it was not taught: words {words:.3f} nats a clip, faults {faults:.3f} nats an answer\n{path}")


def _at_least_one(options: object, *names: str) -> None:
    """Raises: UserError naming the first of these numbers that is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, seen {getattr(options, name)}")


def _check_folder(out: str) -> None:
    if Path(out).is_file():
        raise UserError(f"--out {out!r} is a file; give the name of a folder")


def _told(finding: Finding) -> dict[str, Any]:
    change = finding.change
    numbers = {"change": change.value, "low": change.low, "high": change.high, "share_higher": finding.share_higher}
    return {"exploit": finding.exploit, "verdict": finding.verdict, **numbers, "n": change.n}


def _batches(items: list[VideoItem]) -> Iterator[list[VideoItem]]:
    yield from (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _frames(items: list[VideoItem]) -> Tensor:
    """Frames of videos of one shape, [batch, time, 3, height, width]."""
    import torch

    clips = [video.read(item.video).frames for item in items]
    for clip, item in zip(clips, items, strict=True):
        if clip.shape != clips[0].shape:
            raise UserError(
                f"{item.video} has {_size(clip)}, {items[0].video} has {_size(clips[0])}; score videos of one size"
            )
    return torch.stack([torch.from_numpy(clip) for clip in clips])


def _size(clip: Any) -> str:
    return f"{clip.shape[0]} frames of {clip.shape[3]}x{clip.shape[2]}"


def _number(value: Tensor) -> float | None:
    """A score as JSON: None for NaN."""
    number = float(value)
    return number if math.isfinite(number) else None
