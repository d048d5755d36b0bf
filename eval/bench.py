"""The bench at which videos are judged one by one, and what is found out about them is kept.

A killed run repeats nothing: samples.jsonl holds what is done, keyed by the video's bytes and by the metrics' versions.
Every video is decoded once for all metrics; a fault in a metric costs its own value, not the run.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from base_model.world import reader
from core import files, video, videoset
from core.errors import UserError
from core.progress import track
from core.videoset import VideoItem
from eval import backbones, controls, flow, result
from eval.features import Cache, encode, protocol
from eval.protocol import Array, Backbone, FlowEstimator, Frames, Metric, Sample, Score, missing
from eval.result import SetFeatures, finite

Features = dict[str, Array]  # backbone -> features [rows, dim] of one video


@dataclass(frozen=True)
class Tools:
    """What the chosen metrics look through, by name, and why some of it is absent."""

    backbones: Mapping[str, Backbone]
    estimators: Mapping[str, FlowEstimator]
    absent: Mapping[str, str]
    _texts: dict[tuple[str, str], Array | None] = field(default_factory=dict)

    @classmethod
    def load(cls, metrics: Sequence[Metric], weights: Mapping[str, str], sandbox: Backbone | str | None) -> Tools:
        """Args: sandbox: the CLIP that stands for "sandbox": the shipped one's name, a folder, a Backbone or None."""
        towers: dict[str, Backbone] = {}
        estimators: dict[str, FlowEstimator] = {}
        absent: dict[str, str] = {}
        given = dict(weights)
        if isinstance(sandbox, str) and sandbox != "sandbox":
            given["sandbox"] = sandbox
        for name in dict.fromkeys(metric.backbone for metric in metrics if metric.backbone is not None):
            try:
                if name == "sandbox" and not isinstance(sandbox, str):
                    if sandbox is None:
                        raise UserError("no backbone given")
                    towers[name] = sandbox
                else:
                    towers[name] = backbones.load(name, given)
            except (UserError, OSError, ImportError) as error:
                absent[name] = f"not run: {error}"
        for name in dict.fromkeys(metric.estimator for metric in metrics if metric.estimator is not None):
            try:
                estimators[name] = flow.load(name, given)
            except (UserError, OSError, ImportError) as error:
                absent[name] = f"not run: {error}"
        return cls(towers, estimators, absent)

    def reason(self, metric: Metric) -> str | None:
        """Why a metric cannot run; None when its tools are here."""
        return self.absent.get(metric.backbone or "") or self.absent.get(metric.estimator or "")

    def text(self, name: str, prompt: str) -> Array | None:
        """Features of a prompt by a backbone: encoded once, however many metrics and videos ask."""
        if (name, prompt) not in self._texts:
            self._texts[name, prompt] = self.backbones[name].encode_text(prompt)
        return self._texts[name, prompt]

    def versions(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """What the values of these metrics depend on besides video and metric."""
        used = {metric.backbone for metric in metrics} | {metric.estimator for metric in metrics}
        towers: dict[str, Any] = {name: protocol(tower) for name, tower in self.backbones.items() if name in used}
        return towers | {name: one.sha256 for name, one in self.estimators.items() if name in used}


@dataclass
class Bench:
    """Judges videos one by one and keeps what was found out about them, on disk and by what it depends on."""

    metrics: Sequence[Metric]
    tools: Tools
    store: Cache
    folder: Path
    reference: Sequence[VideoItem]

    def __post_init__(self) -> None:
        self.per_video = [metric for metric in self.metrics if metric.per_video is not None]
        self.reads_tracks = any(metric.name.startswith("physics") for metric in self.per_video)
        pairs = self.reference if any("paired" in metric.needs for metric in self.per_video) else ()
        self.partners = {pairing(item): item for item in pairs}

    def key(self, item: VideoItem | None) -> str:
        """What a row of values depends on besides the video."""
        parts = {metric.name: metric.version for metric in self.per_video}
        partner = self.partners.get(pairing(item)) if item is not None else None
        depends = [parts, self.tools.versions(self.per_video), video.sha256(partner.video) if partner else None]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    def measure(
        self, items: Sequence[VideoItem], rank: int | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Features]]:
        """A row and the features of every video, in the order of the set; what is on disk is not redone.

        Args:
            rank: of one process among several, which writes a file of its own; None for the one that gathers.
        """
        path = self.folder / (result.SAMPLES if rank is None else f"samples-{rank}.jsonl")
        parts = sorted(self.folder.glob("samples-*.jsonl"))
        done: dict[str, dict[str, Any]] = {}
        for part in (self.folder / result.SAMPLES, *parts):
            if part == path or rank is None:
                files.drop_partial_line(part)
            done |= {row["id"]: row for row in files.read_lines(part) if "id" in row} if part.exists() else {}
        rows, features = [], {}
        for item in track(items, f"eval {self.folder.name}"):
            row = done.get(item.id)
            content, key = video.sha256(item.video), self.key(item)
            ready = row is not None and row.get("content") == content and row.get("key") == key
            if row is None or not ready or (row.get("prompt"), row.get("seed")) != (item.prompt, item.seed):
                row, seen = self._judge(item, content, key)
                files.append_line(path, row)
            else:
                seen = None if "error" in row else self._features(item, content)
            rows.append(row)
            if seen is not None:
                features[item.id] = seen
        if rank is None:
            for part in parts:
                part.unlink()
        return rows, features

    def _judge(self, item: VideoItem, content: str, key: str) -> tuple[dict[str, Any], Features | None]:
        row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "seed": item.seed, "video": str(item.video)}
        row |= {"content": content, "key": key}
        try:
            frames = video.read(item.video).frames
        except UserError as error:
            failed = {metric.name: metric.failure for metric in self.per_video}
            return row | failed | {"error": str(error), "reasons": {}}, None
        seen = self._encoded(content, frames)
        sample = Sample(item.id, item.prompt, item.seed, frames, real=self._real(item))
        broken = {}
        try:
            sample.state = videoset.load_state(item)
        except UserError as error:
            broken = {metric.name: missing(str(error)) for metric in self.per_video if "state" in metric.needs}
        scores = {metric.name: self._score(metric, sample, seen) for metric in self.per_video} | broken
        row |= {name: finite(score.value) for name, score in scores.items()}
        row["reasons"] = {name: score.reason for name, score in scores.items() if score.reason is not None}
        if self.reads_tracks and sample.observation is not None:
            result.write_json(self.store.tracks_path(content), tracks_line(sample.observation))
        return row, seen

    def _real(self, item: VideoItem) -> Frames | None:
        """The reference's video of the same prompt and seed; its features are taken along, so it is decoded once."""
        partner = self.partners.get(pairing(item))
        if partner is None:
            return None
        try:
            frames = video.read(partner.video).frames
        except UserError:
            return None
        self._encoded(video.sha256(partner.video), frames)
        return frames

    def _encoded(self, content: str, frames: Frames) -> Features:
        """Features by every backbone, computed where they are not on disk."""
        found = {}
        for name, tower in self.tools.backbones.items():
            kept = self.store.load(content, tower)
            found[name] = kept if kept is not None else self.store.compute(content, frames, tower)
        return found

    def _features(self, item: VideoItem, content: str) -> Features | None:
        """Features of a video that need not be judged; decoded only where some are not on disk."""
        kept = {name: self.store.load(content, tower) for name, tower in self.tools.backbones.items()}
        if all(features is not None for features in kept.values()):
            return {name: features for name, features in kept.items() if features is not None}
        try:
            return self._encoded(content, video.read(item.video).frames)
        except UserError:
            return None

    def encode_reference(self, items: Sequence[VideoItem]) -> tuple[list[dict[str, Any]], dict[str, Features]]:
        rows, features = [], {}
        for item in track(items, "reference") if items else ():
            content = video.sha256(item.video)
            seen = self._features(item, content)
            row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "content": content}
            rows.append(row if seen is not None else row | {"error": "could not be decoded"})
            if seen is not None:
                features[item.id] = seen
        return rows, features

    def _score(self, metric: Metric, sample: Sample, seen: Features) -> Score:
        """A metric's word on a video; a fault in it costs its own value, not the run."""
        assert metric.per_video is not None
        absent = self.tools.reason(metric)
        if absent is not None:
            return missing(absent)
        sample.features, sample.text, sample.estimator = None, None, None
        if metric.backbone is not None:
            tower = self.tools.backbones[metric.backbone]
            if len(sample.frames) < tower.min_frames:
                return missing(_too_short(tower, len(sample.frames)))
            sample.features = seen[metric.backbone]
            if not len(sample.features):
                return missing(f"{tower.name} gave features that are not finite")
            words = metric.words(sample.prompt)
            sample.text = self.tools.text(metric.backbone, words) if words else None
        if metric.estimator is not None:
            sample.estimator = self.tools.estimators[metric.estimator]
        try:
            return metric.per_video(sample)
        except (ValueError, ArithmeticError, IndexError, KeyError, np.linalg.LinAlgError, UserError) as error:
            return missing(f"{type(error).__name__}: {error}")

    def write_tracks(self, rows: Sequence[dict[str, Any]]) -> None:
        """tracks.jsonl: a line for every video that the reader saw."""
        if not self.reads_tracks:
            return
        lines = []
        for row in rows:
            path = self.store.tracks_path(row["content"])
            if path.exists():
                lines.append(json.dumps({"id": row["id"]} | json.loads(path.read_text(encoding="utf-8"))) + "\n")
        files.atomic_write(self.folder / result.TRACKS, "".join(lines))

    def controls(
        self, items: Sequence[VideoItem], features: Mapping[str, Features], wanted: int
    ) -> dict[str, dict[str, Any]]:
        """The control table of a reference; kept beside the features, because two sets share one reference."""
        usable = [item for item in items if item.id in features]
        wanted = min(wanted, len(usable) // 2)
        metrics = [metric for metric in self.metrics if self.tools.reason(metric) is None]
        if wanted < 2:
            return {}
        step = len(usable) / wanted
        chosen = [usable[int(index * step)] for index in range(wanted)]
        contents = [video.sha256(item.video) for item in usable]
        names = {metric.name: metric.version for metric in metrics}
        spoiling = {"kinds": list(controls.CONTROLS), "noise": controls.NOISE, "blur": controls.BLUR}
        depends = [names, self.tools.versions(metrics), contents, [item.prompt for item in usable], wanted, spoiling]
        key = json.dumps(depends, sort_keys=True)
        path = self.store.folder / f"controls-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        rest = {item.id: features[item.id] for item in usable if item.id not in {one.id for one in chosen}}
        scores: dict[str, list[dict[str, float]]] = defaultdict(list)
        spoilt: dict[str, dict[str, Features]] = defaultdict(dict)
        for index, item in enumerate(track(chosen, "controls")):
            real = video.read(item.video).frames
            for kind in ("real", *controls.CONTROLS):
                frames = real if kind == "real" else controls.spoil(real, kind, index)
                seen = {name: encode(frames, tower) for name, tower in self.tools.backbones.items()}
                sample = Sample(item.id, item.prompt, item.seed, frames, real=real if self.partners else None)
                judges = [metric for metric in metrics if metric.per_video is not None]
                scores[kind].append({metric.name: self._score(metric, sample, seen).value for metric in judges})
                spoilt[kind][str(index)] = seen
        sets = {metric.kind: metric for metric in metrics if metric.per_set is not None}
        kinds = {
            kind: controls.Control(
                {name: [row[name] for row in rows] for name in rows[0]},
                {name: set_features(metric, spoilt[kind], rest) for name, metric in sets.items()},
            )
            for kind, rows in scores.items()
        }
        table = controls.table(metrics, kinds)
        result.write_json(path, table)
        return table


def pairing(item: VideoItem) -> tuple[str, str]:
    """Two videos of one prompt and seed are a pair; without a seed those of one id are."""
    return item.prompt, f"id {item.id}" if item.seed is None else f"seed {item.seed}"


def _too_short(tower: Backbone, num_frames: int) -> str:
    return f"{tower.name} needs {tower.min_frames} frames, the video has {num_frames}"


def tracks_line(observation: reader.Observation) -> dict[str, Any]:
    """What the reader saw, for drawing: positions in px to two digits, null where an object is not seen whole."""
    objects = [
        {
            "colour": one.colour,
            "shape": one.shape,
            "radius": finite(round(float(np.median(one.radius[one.seen])), 2)) if one.seen.any() else None,
            "position": [
                [round(float(x), 2), round(float(y), 2)] if whole else None
                for (x, y), whole in zip(one.position, one.seen, strict=True)
            ],
            "status": list(one.status),
        }
        for one in observation.tracks
    ]
    return {"height": observation.height, "width": observation.width, "objects": objects}


def set_features(
    metric: Metric, features: Mapping[str, Features], reference: Mapping[str, Features] | None
) -> SetFeatures:
    """The vectors of a set and of its reference (None without one), as this metric pools them."""
    ids, vectors = _pooled(metric, features)
    return SetFeatures(tuple(ids), vectors, None if reference is None else _pooled(metric, reference)[1])


def _pooled(metric: Metric, features: Mapping[str, Features]) -> tuple[list[str], Array]:
    assert metric.pool is not None and metric.backbone is not None
    rows = {name: seen[metric.backbone] for name, seen in features.items()}
    parts = {name: metric.pool.vectors(row) for name, row in rows.items() if len(row)}
    ids = [name for name, part in parts.items() for _ in part]
    return ids, np.concatenate(list(parts.values())) if parts else np.zeros((0, 0))
