"""What results.json says of a metric: value, interval and n from the rows of a set or from its vectors, or why not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from core.stats import Interval, mean_interval, wilson
from eval.bench import Tools
from eval.neighbours import num_copies
from eval.pairs import cluster
from eval.protocol import Metric
from eval.result import SetFeatures, finite
from eval.set_interval import jackknife, parts_for

SHARE_OF_VIDEOS = "share of videos"  # unit of what is yes or no of a video


def entry(
    metric: Metric,
    tools: Tools,
    rows: Sequence[dict[str, Any]],
    vectors: Mapping[str, SetFeatures],
    groups: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    """All that results.json says of a metric, but for the controls.

    Args:
        rows: of samples.jsonl.
        vectors: Metric.kind -> what its set metrics compare.
        groups: prompt -> names under which its videos are also averaged.
        seed: of the resampling.
    """
    reason = tools.reason(metric)
    if metric.per_set is not None:
        told = set_entry(metric, vectors.get(metric.kind), {row["id"]: row["prompt"] for row in rows}, reason)
    else:
        told = video_entry(metric, rows, reason, seed)
        if groups and reason is None:
            told["groups"] = by_group(metric, rows, groups, seed)
    return told | fine_print(metric, tools)


def video_entry(metric: Metric, rows: Sequence[dict[str, Any]], reason: str | None, seed: int) -> dict[str, Any]:
    """Mean over the videos, failures as the metric counts them; `reason` says why it could not run at all."""
    values = np.array([np.nan if row.get(metric.name) is None else row[metric.name] for row in rows], dtype=float)
    failed = sum("error" in row for row in rows)
    if reason is None and not np.isfinite(values).any():
        reasons = Counter(row["reasons"].get(metric.name, "could not be decoded") for row in rows)
        reason = "; ".join(f"{text} ({_videos(count)})" for text, count in reasons.most_common(3))
    if reason is not None:
        return _not_run(reason) | {"num_failed": failed}
    prompts = [cluster(row) for row in rows]
    interval = mean_interval(values, prompts, seed)
    if metric.unit == SHARE_OF_VIDEOS and interval.low == interval.high:
        interval = _unanimous(interval, len({name for name, value in zip(prompts, values, strict=True) if value >= 0}))
    return _entry(interval) | {"num_failed": failed}


def _unanimous(interval: Interval, num_prompts: int) -> Interval:
    """Of a share that is the same on every prompt, of which a bootstrap would say that no other is possible."""
    bounds = wilson(interval.value * num_prompts, 0, num_prompts)
    return replace(interval, low=bounds.low, high=bounds.high, method=f"Wilson over {num_prompts} prompts")


def by_group(
    metric: Metric, rows: Sequence[dict[str, Any]], groups: Mapping[str, Sequence[str]], seed: int
) -> dict[str, dict[str, Any]]:
    """The same mean over the videos of each group of prompts."""
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for name in groups.get(row["prompt"], ()):
            parts[name].append(row)
    entries = {name: video_entry(metric, part, None, seed) for name, part in sorted(parts.items())}
    return {name: {key: entry[key] for key in ("value", "interval", "n")} for name, entry in entries.items()}


def set_entry(
    metric: Metric, features: SetFeatures | None, prompts: Mapping[str, str], reason: str | None
) -> dict[str, Any]:
    """Distance of the set from its reference, with what a reader must know about so few videos or copies.

    Args:
        prompts: video id -> its prompt, of all videos.
    """
    distance = metric.per_set
    assert distance is not None
    if reason is not None or features is None:
        return _not_run(reason or "not run")
    reference, num_videos = features.reference, features.num_videos
    if reference is None:
        return _not_run("not run: needs --reference, a video set of real videos")
    if num_videos < 2 or len(reference) < 2:
        return _not_run(f"not run: {_videos(num_videos)} and {len(reference)} real with features")
    groups, dim = [prompts[name] or name for name in features.ids], features.vectors.shape[1]
    interval = jackknife(lambda rows: distance(features.vectors[rows], reference), groups, parts_for(dim))
    low, high = np.clip([interval.low, interval.high], *metric.range)
    entry = _entry(replace(interval, low=min(float(low), interval.value), high=max(float(high), interval.value)))
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
        words.append(
            f"{len(prompts) - num_videos} of {len(prompts)} videos without features (broken, too short, not finite)"
        )
    return entry | {"n": num_videos} | ({"warning": "; ".join(words)} if words else {})


def _videos(count: int) -> str:
    return "1 video" if count == 1 else f"{count} videos"


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


def fine_print(metric: Metric, tools: Tools) -> dict[str, Any]:
    """What a number may be compared by: unit, direction, version, backbone, preprocessing, blind spots."""
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
