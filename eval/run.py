"""One evaluation: every video decoded once for all metrics, every value on disk as soon as it is known.

A killed run repeats nothing: samples.jsonl holds what is done, keyed by the video's bytes and by the metrics' versions.
A video that cannot be decoded stays in the denominator: it scores the metric's worst where there is one, and is named
in any case. A metric that cannot run says why. Sets are read one video at a time, so no number depends on a batch size.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core import files, run, video, videoset
from core.errors import UserError
from core.progress import track
from core.stats import Interval, mean_interval
from core.videoset import VideoItem
from eval import backbones, controls, result, select
from eval.features import Cache, Features, clip_vector, compute
from eval.protocol import Array, Backbone, Frames, Metric, Sample, Score
from eval.result import SetFeatures, finite
from eval.set_interval import jackknife

ENOUGH = 48  # videos below which a Frechet distance of 48 dims is singular


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


def evaluate(
    videoset_folder: Path | str,
    metrics: Sequence[str] = ("all",),
    out: Path | str | None = None,
    reference: Path | str | None = None,
    *,
    cache: Path | str | None = None,
    backbone: Backbone | str | None = "sandbox",
    num_controls: int = 32,
    seed: int = 0,
) -> Results:
    """Measure a video set and write results.json, samples.jsonl and features.npz.

    Args:
        metrics: names; see eval.select.
        out: folder to write; None for the video set's own.
        reference: video set of real videos, for set metrics and controls.
        cache: folder of features; None for out/features. Two sets may share one: its keys hold all that matters.
        backbone: "sandbox", a folder of weights, a Backbone, or None (metrics that need one then say so).
        num_controls: reference clips that are spoilt as controls; 0 for none.
        seed: of the resampling.
    Raises: UserError for an unknown metric or an empty set; never for a broken video.
    """
    chosen = select.metrics(metrics)
    items = videoset.read(videoset_folder)
    folder = Path(out) if out is not None else Path(videoset_folder)
    folder.mkdir(parents=True, exist_ok=True)
    tower, absent = _backbone(backbone) if any("backbone" in metric.needs for metric in chosen) else (None, "")
    store = Cache(Path(cache) if cache is not None else folder / "features", tower)
    rows, features = _measure(items, chosen, folder, store)
    _add_groups(rows, features, [metric for metric in chosen if metric.per_group is not None])
    result.write_samples(folder, rows)

    warnings = _warnings(rows, items)
    reference_items = videoset.read(reference) if reference is not None else []
    reference_rows, reference_features = _reference(reference_items, store)
    warnings += [f"reference {row['id']}: {row['error']}" for row in reference_rows if "error" in row]
    vectors = _vectors(rows, features)
    reference_vectors = _vectors(reference_rows, reference_features)
    kept = SetFeatures(tuple(vectors), _stack(vectors), _stack(reference_vectors) if reference_items else None)
    if tower is not None:
        result.write_features(folder, kept)

    prompts = {row["id"]: row["prompt"] for row in rows}
    table = {}
    for metric in chosen:
        reason = absent if "backbone" in metric.needs and tower is None else None
        if metric.per_set is not None:
            entry = _set_entry(metric, kept, [prompts[name] for name in kept.ids], reason)
        else:
            entry = _video_entry(metric, rows, reason, seed)
        table[metric.name] = entry | _fine_print(metric, tower)
    spoilt = _controls(reference_items, reference_features, chosen, store, num_controls)
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
            "reference_sha256": _digest(kept.reference),
            "num_videos": len(items),
            "num_reference": len(reference_items),
            "seed": seed,
            "seeds": sorted({item.seed for item in items if item.seed is not None}),
            "models": sorted({item.model for item in items if item.model}),
        },
    )
    result.write_json(folder / result.RESULTS, results.as_json())
    return results


def _backbone(wanted: Backbone | str | None) -> tuple[Backbone | None, str]:
    if not isinstance(wanted, str):
        return wanted, "not run: no backbone given"
    try:
        return backbones.load(wanted), ""
    except (UserError, OSError) as error:
        return None, f"not run: {error}"


def _measure(
    items: Sequence[VideoItem], metrics: Sequence[Metric], folder: Path, store: Cache
) -> tuple[list[dict[str, Any]], dict[str, Features]]:
    """A row and the features of every video, in the order of the set; what samples.jsonl holds is not redone."""
    per_video = [metric for metric in metrics if metric.per_video is not None]
    key = _key(per_video, store)
    path = folder / result.SAMPLES
    files.drop_partial_line(path)
    done = {row.get("id"): row for row in files.read_lines(path)} if path.exists() else {}
    rows, features = [], {}
    for item in track(items, f"eval {folder.name}"):
        row = done.get(item.id)
        content = video.sha256(item.video)
        ready = row is not None and row.get("content") == content and row.get("key") == key
        if row is None or not ready or row["prompt"] != item.prompt or row["seed"] != item.seed:
            row, seen = _judge(item, content, key, per_video, store)
            files.append_line(path, row)
        else:
            seen = None if "error" in row else store.load(content) or _recompute(item, content, store)
        rows.append(row)
        if seen is not None:
            features[item.id] = seen
    return rows, features


def _key(metrics: Sequence[Metric], store: Cache) -> str:
    """What a row of values depends on besides the video."""
    parts = {metric.name: metric.version for metric in metrics}
    return hashlib.sha256(json.dumps([parts, store.protocol], sort_keys=True).encode()).hexdigest()[:16]


def _judge(
    item: VideoItem, content: str, key: str, metrics: Sequence[Metric], store: Cache
) -> tuple[dict[str, Any], Features | None]:
    row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "seed": item.seed, "video": str(item.video)}
    row |= {"content": content, "key": key}
    try:
        frames = video.read(item.video).frames
        state = videoset.load_state(item)
    except UserError as error:
        return row | {metric.name: metric.failure for metric in metrics} | {"error": str(error), "reasons": {}}, None
    seen = store.load(content)
    if seen is None:
        seen = compute(frames, store.backbone)
        store.save(content, seen)
        seen = store.load(content) or seen  # rounded as on disk, so that a resumed run gives the same last digit
    sample = _sample(item, frames, seen, store.backbone)
    sample.state = state
    scores = {metric.name: _score(metric, sample) for metric in metrics}
    row |= {name: finite(score.value) for name, score in scores.items()}
    row["reasons"] = {name: score.reason for name, score in scores.items() if score.reason is not None}
    return row, seen


def _sample(item: VideoItem, frames: Frames, seen: Features, backbone: Backbone | None) -> Sample:
    text = backbone.encode_text(item.prompt) if backbone is not None and item.prompt else None
    return Sample(item.id, item.prompt, item.seed, frames, seen.clip, text)


def _score(metric: Metric, sample: Sample) -> Score:
    """A metric's word on a video; a fault in it costs its own value, not the run."""
    assert metric.per_video is not None
    try:
        return metric.per_video(sample)
    except (ValueError, ArithmeticError, IndexError, KeyError, np.linalg.LinAlgError, UserError) as error:
        return Score(float("nan"), f"{type(error).__name__}: {error}")


def _recompute(item: VideoItem, content: str, store: Cache) -> Features | None:
    """Features of a video whose cache file is gone."""
    try:
        seen = compute(video.read(item.video).frames, store.backbone)
    except UserError:
        return None
    store.save(content, seen)
    return store.load(content)


def _add_groups(rows: list[dict[str, Any]], features: dict[str, Features], metrics: Sequence[Metric]) -> None:
    """Values that need the other videos of the prompt, written into the rows."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for metric in metrics:
            row[metric.name] = metric.failure
        if row["id"] in features:
            groups[row["prompt"]].append(row)
    for members in groups.values():
        for metric in metrics:
            assert metric.per_group is not None
            parts = [
                features[row["id"]].clip if metric.group_features == "clip" else features[row["id"]].thumbnail
                for row in members
            ]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                continue
            for row, score in zip(members, metric.per_group(known), strict=True):
                row[metric.name] = finite(score.value)
                if score.reason is not None:
                    row["reasons"][metric.name] = score.reason


def _reference(items: Sequence[VideoItem], store: Cache) -> tuple[list[dict[str, Any]], dict[str, Features]]:
    rows, features = [], {}
    for item in track(items, "reference") if items else ():
        content = video.sha256(item.video)
        seen = store.load(content) or _recompute(item, content, store)
        row: dict[str, Any] = {"id": item.id, "prompt": item.prompt}
        rows.append(row if seen is not None else row | {"error": "could not be decoded"})
        if seen is not None:
            features[item.id] = seen
    return rows, features


def _vectors(rows: Sequence[dict[str, Any]], features: dict[str, Features]) -> dict[str, Array]:
    """id -> set feature of every video that has one."""
    return {
        row["id"]: clip_vector(seen.clip)
        for row in rows
        if (seen := features.get(row["id"])) is not None and seen.clip is not None
    }


def _stack(vectors: dict[str, Array]) -> Array:
    return np.stack(list(vectors.values())) if vectors else np.zeros((0, 0))


def _digest(array: Array | None) -> str | None:
    return None if array is None else hashlib.sha256(np.round(array, 6).tobytes()).hexdigest()


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


def _set_entry(metric: Metric, features: SetFeatures, groups: Sequence[str], reason: str | None) -> dict[str, Any]:
    distance, reference = metric.per_set, features.reference
    assert distance is not None
    if reason is None and reference is None:
        reason = "not run: needs --reference, a video set of real videos"
    if reason is None and (len(features.ids) < 2 or reference is None or len(reference) < 2):
        reason = f"not run: {len(features.ids)} videos and {len(reference) if reference is not None else 0} real ones"
    if reason is not None or reference is None:
        return _not_run(reason or "not run")
    entry = _entry(jackknife(lambda rows: distance(features.vectors[rows], reference), groups))
    fewest = min(len(features.ids), len(reference))
    if fewest <= max(ENOUGH, features.vectors.shape[1]):
        entry["warning"] = f"{fewest} videos for {features.vectors.shape[1]} dimensions: the value is mostly bias"
    return entry


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


def _fine_print(metric: Metric, tower: Backbone | None) -> dict[str, Any]:
    uses = tower if "backbone" in metric.needs else None
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


def _controls(
    items: Sequence[VideoItem], features: dict[str, Features], metrics: Sequence[Metric], store: Cache, wanted: int
) -> dict[str, dict[str, Any]]:
    """The control table of a reference; kept beside the features, because two sets share one reference."""
    usable = [item for item in items if item.id in features]
    wanted = min(wanted, len(usable) // 2)
    if wanted < 2:
        return {}
    step = len(usable) / wanted
    chosen = [usable[int(index * step)] for index in range(wanted)]
    contents = [video.sha256(item.video) for item in usable]
    key = json.dumps([_key(metrics, store), contents, [item.prompt for item in usable], wanted])
    path = store.folder / f"controls-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    names = {item.id for item in chosen}
    rest_of = [seen.clip for item in usable if item.id not in names and (seen := features[item.id]).clip is not None]
    rest = np.stack([clip_vector(clip) for clip in rest_of]) if rest_of else None
    per_video = [metric for metric in metrics if metric.per_video is not None]
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    vectors: dict[str, list[Array]] = defaultdict(list)
    for index, item in enumerate(track(chosen, "controls")):
        real = video.read(item.video).frames
        for kind in ("real", *controls.CONTROLS):
            frames = real if kind == "real" else controls.spoil(real, kind, index)
            sample = _sample(item, frames, compute(frames, store.backbone), store.backbone)
            scores[kind].append({metric.name: _score(metric, sample).value for metric in per_video})
            if sample.features is not None:
                vectors[kind].append(clip_vector(sample.features))
    kinds = {
        kind: controls.Control(
            {metric.name: [row[metric.name] for row in rows] for metric in per_video},
            np.stack(vectors[kind]) if vectors[kind] else None,
        )
        for kind, rows in scores.items()
    }
    table = controls.table(metrics, kinds, rest)
    result.write_json(path, table)
    return table
