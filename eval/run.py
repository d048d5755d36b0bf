"""One evaluation: every video decoded once for all metrics, every value on disk as soon as it is known.

A killed run repeats nothing: samples.jsonl holds what is done, keyed by the video's bytes and by the metrics' versions.
A video that cannot be decoded stays in the denominator: it scores the metric's worst where there is one, and is named
in any case. A metric that cannot run says why. Sets are read one video at a time, so no number depends on a batch size.
Under `accelerate launch -m eval ...` every process judges its share; the first one gathers and writes the results.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from base_model.world import reader
from core import files, run, video, videoset
from core.errors import UserError
from core.progress import track
from core.stats import Interval, mean_interval
from core.videoset import VideoItem
from eval import backbones, controls, flow, result, select
from eval.features import Cache, encode, protocol
from eval.neighbours import num_copies
from eval.protocol import Array, Backbone, FlowEstimator, Frames, Member, Metric, Sample, Score
from eval.result import SetFeatures, finite
from eval.set_interval import jackknife, parts_for

Features = dict[str, Array]  # backbone -> features [rows, dim] of one video


@dataclass
class Results:
    """What results.json holds."""

    metrics: dict[str, dict[str, Any]]
    controls: dict[str, dict[str, Any]]
    failures: list[dict[str, str]]
    warnings: list[str]
    provenance: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "metrics": self.metrics,
            "controls": self.controls,
            "failures": self.failures,
            "warnings": self.warnings,
            "provenance": self.provenance,
        }


@dataclass(frozen=True)
class Tools:
    """What the chosen metrics look through, by name, and why some of it is absent."""

    backbones: Mapping[str, Backbone]
    estimators: Mapping[str, FlowEstimator]
    absent: Mapping[str, str]

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

    def versions(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """What the values of these metrics depend on besides video and metric."""
        used = {metric.backbone for metric in metrics} | {metric.estimator for metric in metrics}
        towers: dict[str, Any] = {name: protocol(tower) for name, tower in self.backbones.items() if name in used}
        return towers | {name: one.sha256 for name, one in self.estimators.items() if name in used}


def evaluate(
    videoset_folder: Path | str,
    metrics: Sequence[str] = ("all",),
    out: Path | str | None = None,
    reference: Path | str | None = None,
    *,
    cache: Path | str | None = None,
    backbone: Backbone | str | None = "sandbox",
    weights: Mapping[str, str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    num_controls: int = 32,
    seed: int = 0,
) -> Results:
    """Measure a video set and write results.json, samples.jsonl, features.npz and tracks.jsonl.

    Args:
        metrics: names; see eval.select.
        out: folder to write; None for the video set's own.
        reference: video set of real videos, for set metrics, paired metrics and controls.
        cache: folder of features; None for out/features. Two sets may share one: its keys hold all that matters.
        backbone: the CLIP called "sandbox": its name, a folder of weights, a Backbone, or None (metrics that need it
            then say so).
        weights: backbone or flow estimator -> its file; see eval.backbones.
        groups: prompt -> names under which its videos are also averaged; see eval.suite.
        num_controls: reference clips that are spoilt as controls; 0 for none.
        seed: of the resampling.
    Raises: UserError for an unknown metric or an empty set; never for a broken video.
    """
    weights = weights or {}
    select.metrics(metrics, weights)  # a wrong name fails before anything is read
    items = videoset.read(videoset_folder)
    reference_items = videoset.read(reference) if reference is not None else []
    chosen = select.metrics(metrics, weights, _lacking(items, reference_items))
    folder = Path(out) if out is not None else Path(videoset_folder)
    folder.mkdir(parents=True, exist_ok=True)
    tools = Tools.load(chosen, weights, backbone)
    store = Cache(Path(cache) if cache is not None else folder / "features")
    bench = Bench(chosen, tools, store, folder, reference_items)

    rank, num_processes = _process()
    if num_processes > 1:
        bench.measure(items[rank::num_processes], rank)
        bench.encode_reference(reference_items[rank::num_processes])
        _wait()
        if rank > 0:
            _wait()
            return _read(folder)
    rows, features = bench.measure(items)
    reference_rows, reference_features = bench.encode_reference(reference_items)
    _add_groups(rows, features, [metric for metric in chosen if metric.per_group is not None], tools)
    result.write_samples(folder, rows)
    bench.write_tracks(rows)

    warnings = _warnings(rows, items)
    warnings += [f"reference {row['id']}: {row['error']}" for row in reference_rows if "error" in row]
    kinds = {metric.kind: metric for metric in chosen if metric.per_set is not None and tools.reason(metric) is None}
    vectors = {
        kind: _set_features(metric, features, reference_features if reference_items else None)
        for kind, metric in kinds.items()
    }
    if vectors:
        result.write_features(folder, vectors)

    prompts = {row["id"]: row["prompt"] for row in rows}
    table = {}
    for metric in chosen:
        reason = tools.reason(metric)
        if metric.per_set is not None:
            entry = _set_entry(metric, vectors.get(metric.kind), prompts, reason)
        else:
            entry = _video_entry(metric, rows, reason, seed)
            if groups and reason is None:
                entry["groups"] = _by_group(metric, rows, groups, seed)
        table[metric.name] = entry | _fine_print(metric, tools)
    spoilt = bench.controls(reference_items, reference_features, num_controls)
    for name, row in spoilt.items():
        table[name]["flagged"] = row["flagged"]
    results = Results(
        metrics=table,
        controls=spoilt,
        failures=[{"id": row["id"], "error": row["error"]} for row in rows if "error" in row],
        warnings=warnings,
        provenance=run.environment()
        | {
            "videoset": str(videoset_folder),
            "reference": str(reference) if reference is not None else None,
            "reference_sha256": _digest([row["content"] for row in reference_rows]),
            "num_videos": len(items),
            "num_reference": len(reference_items),
            "num_processes": num_processes,
            "seed": seed,
            "seeds": sorted({item.seed for item in items if item.seed is not None}),
            "models": sorted({item.model for item in items if item.model}),
        },
    )
    result.write_json(folder / result.RESULTS, results.as_json())
    if num_processes > 1:
        _wait()
    return results


def _lacking(items: Sequence[VideoItem], reference: Sequence[VideoItem]) -> set[str]:
    """What metrics need and no video of this set has."""
    partners = {_pairing(item) for item in reference}
    lacking = {"state"} if all(item.state is None for item in items) else set()
    return lacking if any(_pairing(item) in partners for item in items) else lacking | {"paired"}


def _process() -> tuple[int, int]:
    """Rank of this process and how many a launcher started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _wait() -> None:
    """For all processes."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def _read(folder: Path) -> Results:
    content = result.read_results(folder)
    return Results(**{name: content[name] for name in Results.__dataclass_fields__})


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
        self.partners = {_pairing(item): item for item in pairs}

    def key(self, item: VideoItem | None) -> str:
        """What a row of values depends on besides the video."""
        parts = {metric.name: metric.version for metric in self.per_video}
        partner = self.partners.get(_pairing(item)) if item is not None else None
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
            if row is None or not ready or row["prompt"] != item.prompt or row["seed"] != item.seed:
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
            state = videoset.load_state(item)
        except UserError as error:
            failed = {metric.name: metric.failure for metric in self.per_video}
            return row | failed | {"error": str(error), "reasons": {}}, None
        seen = self._encoded(content, frames)
        sample = Sample(item.id, item.prompt, item.seed, frames, state=state, real=self._real(item))
        scores = {metric.name: self._score(metric, sample, seen) for metric in self.per_video}
        row |= {name: finite(score.value) for name, score in scores.items()}
        row["reasons"] = {name: score.reason for name, score in scores.items() if score.reason is not None}
        if self.reads_tracks and sample.observation is not None:
            result.write_json(self.store.tracks_path(content), _tracks(sample.observation))
        return row, seen

    def _real(self, item: VideoItem) -> Frames | None:
        """The reference's video of the same prompt and seed; its features are taken along, so it is decoded once."""
        partner = self.partners.get(_pairing(item))
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
            return Score(float("nan"), absent)
        sample.features, sample.text, sample.estimator = None, None, None
        if metric.backbone is not None:
            tower = self.tools.backbones[metric.backbone]
            if len(sample.frames) < tower.min_frames:
                return Score(float("nan"), _too_short(tower, len(sample.frames)))
            sample.features = seen[metric.backbone]
            sample.text = tower.encode_text(sample.prompt) if sample.prompt else None
        if metric.estimator is not None:
            sample.estimator = self.tools.estimators[metric.estimator]
        try:
            return metric.per_video(sample)
        except (ValueError, ArithmeticError, IndexError, KeyError, np.linalg.LinAlgError, UserError) as error:
            return Score(float("nan"), f"{type(error).__name__}: {error}")

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
        key = json.dumps(
            [names, self.tools.versions(metrics), contents, [item.prompt for item in usable], wanted], sort_keys=True
        )
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
                {name: _set_features(metric, spoilt[kind], rest) for name, metric in sets.items()},
            )
            for kind, rows in scores.items()
        }
        table = controls.table(metrics, kinds)
        result.write_json(path, table)
        return table


def _pairing(item: VideoItem) -> tuple[str, str]:
    """Two videos of one prompt and seed are a pair; without a seed those of one id are."""
    return item.prompt, f"id {item.id}" if item.seed is None else f"seed {item.seed}"


def _too_short(tower: Backbone, num_frames: int) -> str:
    return f"{tower.name} needs {tower.min_frames} frames, the video has {num_frames}"


def _tracks(observation: reader.Observation) -> dict[str, Any]:
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


def _add_groups(
    rows: list[dict[str, Any]], features: Mapping[str, Features], metrics: Sequence[Metric], tools: Tools
) -> None:
    """Values that need the other videos of the prompt or of the set, written into the rows."""
    texts: dict[tuple[str, str], Array | None] = {}
    for metric in metrics:
        for row in rows:
            row[metric.name] = metric.failure if "error" in row else None
        name = metric.backbone
        if name is None or name not in tools.backbones:
            continue
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["id"] in features and len(features[row["id"]][name]):
                groups[row["prompt"] if metric.group == "prompt" else ""].append(row)
                if (name, row["prompt"]) not in texts:
                    texts[name, row["prompt"]] = tools.backbones[name].encode_text(row["prompt"])
        for group in groups.values():
            assert metric.per_group is not None
            members = [Member(row["prompt"], features[row["id"]][name], texts[name, row["prompt"]]) for row in group]
            for row, score in zip(group, metric.per_group(members), strict=True):
                row[metric.name] = finite(score.value)
                row["reasons"].pop(metric.name, None)
                if score.reason is not None:
                    row["reasons"][metric.name] = score.reason


def _set_features(
    metric: Metric, features: Mapping[str, Features], reference: Mapping[str, Features] | None
) -> SetFeatures:
    """The vectors of a set and of its reference (None without one), as this metric pools them."""
    ids, vectors = _pooled(metric, features)
    return SetFeatures(tuple(ids), vectors, None if reference is None else _pooled(metric, reference)[1])


def _pooled(metric: Metric, features: Mapping[str, Features]) -> tuple[list[str], Array]:
    assert metric.pool is not None and metric.backbone is not None
    parts = {
        name: metric.pool.vectors(seen[metric.backbone])
        for name, seen in features.items()
        if len(seen[metric.backbone])
    }
    ids = [name for name, part in parts.items() for _ in part]
    return ids, np.concatenate(list(parts.values())) if parts else np.zeros((0, 0))


def _digest(contents: Sequence[str]) -> str | None:
    """One hash of the reference's files, whatever their order."""
    return hashlib.sha256("".join(sorted(contents)).encode()).hexdigest() if contents else None


def _warnings(rows: Sequence[dict[str, Any]], items: Sequence[VideoItem]) -> list[str]:
    """What a reader of the numbers should know about the set."""
    words = []
    copies = [count for count in Counter(row["content"] for row in rows).values() if count > 1]
    if copies:
        words.append(f"{sum(copies) - len(copies)} of {len(rows)} videos are byte-for-byte copies of another")
    unprompted = sum(not item.prompt for item in items)
    if unprompted:
        words.append(f"{unprompted} of {len(items)} videos have no prompt")
    failed = sum("error" in row for row in rows)
    if failed:
        words.append(f"{failed} of {len(rows)} videos could not be decoded")
    return words


def _video_entry(metric: Metric, rows: Sequence[dict[str, Any]], reason: str | None, seed: int) -> dict[str, Any]:
    values = np.array([np.nan if row.get(metric.name) is None else row[metric.name] for row in rows], dtype=float)
    failed = sum("error" in row for row in rows)
    if reason is None and not np.isfinite(values).any():
        reasons = Counter(row["reasons"].get(metric.name, "could not be decoded") for row in rows)
        reason = "; ".join(f"{text} ({count} videos)" for text, count in reasons.most_common(3))
    if reason is not None:
        return _not_run(reason) | {"num_failed": failed}
    return _entry(mean_interval(values, [row["prompt"] or row["id"] for row in rows], seed)) | {"num_failed": failed}


def _by_group(
    metric: Metric, rows: Sequence[dict[str, Any]], groups: Mapping[str, Sequence[str]], seed: int
) -> dict[str, dict[str, Any]]:
    """The same mean over the videos of each group of prompts."""
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for name in groups.get(row["prompt"], ()):
            parts[name].append(row)
    entries = {name: _video_entry(metric, part, None, seed) for name, part in sorted(parts.items())}
    return {name: {key: entry[key] for key in ("value", "interval", "n")} for name, entry in entries.items()}


def _set_entry(
    metric: Metric, features: SetFeatures | None, prompts: Mapping[str, str], reason: str | None
) -> dict[str, Any]:
    distance = metric.per_set
    assert distance is not None
    if reason is not None or features is None:
        return _not_run(reason or "not run")
    reference, num_videos = features.reference, features.num_videos
    if reference is None:
        return _not_run("not run: needs --reference, a video set of real videos")
    if num_videos < 2 or len(reference) < 2:
        return _not_run(f"not run: {num_videos} videos and {len(reference)} real ones with features")
    groups, dim = [prompts[name] or name for name in features.ids], features.vectors.shape[1]
    entry = _entry(jackknife(lambda rows: distance(features.vectors[rows], reference), groups, parts_for(dim)))
    if entry["value"] is None:
        return _not_run(f"not run: too few videos ({num_videos} and {len(reference)} real ones, {dim} dimensions)")
    words = []
    fewest = min(len(features.vectors), len(reference))
    if fewest <= dim and metric.name.split("[")[0] in ("fvd", "frame_frechet"):
        words.append(f"{fewest} vectors for {dim} dimensions: the value is mostly bias")
    copies = num_copies(features.vectors) if num_videos == len(features.ids) else 0
    if copies:
        words.append(f"{copies} of {num_videos} videos have the features of another and add no samples")
    if num_videos < len(prompts):
        words.append(f"{len(prompts) - num_videos} videos have no features (broken or too short)")
    return entry | {"n": num_videos} | ({"warning": "; ".join(words)} if words else {})


def _entry(interval: Interval) -> dict[str, Any]:
    low, high = finite(interval.low), finite(interval.high)
    bounds = [low, high] if low is not None and high is not None else None
    return {
        "value": finite(interval.value),
        "interval": bounds,
        "n": interval.n,
        "method": interval.method,
        "reason": None,
    }


def _not_run(reason: str) -> dict[str, Any]:
    return {"value": None, "interval": None, "n": 0, "method": None, "reason": reason}


def _fine_print(metric: Metric, tools: Tools) -> dict[str, Any]:
    uses = tools.backbones.get(metric.backbone or "") or tools.estimators.get(metric.estimator or "")
    return {
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "range": [finite(bound) for bound in metric.range],
        "version": metric.version,
        "backbone": uses.name if uses else None,
        "backbone_sha256": uses.sha256 if uses else None,
        "preprocessing": metric.preprocessing,
        "blind_spots": metric.blind_spots,
    }
