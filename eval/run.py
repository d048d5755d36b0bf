"""One evaluation: the bench judges every video, then the metrics are summed up and the results written.

A video that cannot be decoded stays in the denominator: it scores the metric's worst where there is one, and is named
in any case. A metric that cannot run says why. Sets are read one video at a time, so no number depends on a batch size.
Under `accelerate launch -m eval ...` every process judges its share; the first one gathers and writes the results.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import run, videoset
from core.videoset import VideoItem
from eval import entries, result, select
from eval.bench import Bench, Features, Tools, pairing, set_features
from eval.features import Cache
from eval.protocol import Backbone, Member, Metric
from eval.result import SetFeatures, finite


@dataclass(frozen=True)
class Results:
    """What results.json holds, key by key."""

    metrics: dict[str, dict[str, Any]]
    controls: dict[str, dict[str, Any]]
    failures: list[dict[str, str]]
    warnings: list[str]
    provenance: dict[str, Any]


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
    vectors = _vectors(chosen, tools, features, reference_features if reference_items else None)
    if vectors:
        result.write_features(folder, vectors)

    table = {metric.name: entries.entry(metric, tools, rows, vectors, groups or {}, seed) for metric in chosen}
    spoilt = bench.controls(reference_items, reference_features, num_controls)
    for name, row in spoilt.items():
        table[name]["flagged"] = row["flagged"]
    provenance = {
        "videoset": str(videoset_folder),
        "reference": str(reference) if reference is not None else None,
        "reference_sha256": _digest([row["content"] for row in reference_rows]),
        "num_videos": len(items),
        "num_reference": len(reference_items),
        "num_processes": num_processes,
        "seed": seed,
        "seeds": sorted({item.seed for item in items if item.seed is not None}),
        "models": sorted({item.model for item in items if item.model}),
    }
    failures = [{"id": row["id"], "error": row["error"]} for row in rows if "error" in row]
    warnings = _warnings(rows, items, reference_rows)
    results = Results(table, spoilt, failures, warnings, run.environment() | provenance)
    result.write_json(folder / result.RESULTS, vars(results))
    if num_processes > 1:
        _wait()
    return results


def _vectors(
    metrics: Sequence[Metric],
    tools: Tools,
    features: Mapping[str, Features],
    reference: Mapping[str, Features] | None,
) -> dict[str, SetFeatures]:
    """Metric.kind -> what the set metrics that can run compare."""
    kinds = {metric.kind: metric for metric in metrics if metric.per_set is not None and tools.reason(metric) is None}
    return {kind: set_features(metric, features, reference) for kind, metric in kinds.items()}


def _lacking(items: Sequence[VideoItem], reference: Sequence[VideoItem]) -> set[str]:
    """What metrics need and no video of this set has."""
    partners = {pairing(item) for item in reference}
    lacking = {"state"} if all(item.state is None for item in items) else set()
    return lacking if any(pairing(item) in partners for item in items) else lacking | {"paired"}


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


def _add_groups(
    rows: list[dict[str, Any]], features: Mapping[str, Features], metrics: Sequence[Metric], tools: Tools
) -> None:
    """Values that need the other videos of the prompt or of the set, written into the rows."""
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
            elif "error" not in row:
                row["reasons"][metric.name] = f"{name} gave no features: too few frames, or not finite"
        for group in groups.values():
            assert metric.per_group is not None
            members = [
                Member(row["prompt"], features[row["id"]][name], tools.text(name, row["prompt"])) for row in group
            ]
            for row, score in zip(group, metric.per_group(members), strict=True):
                row[metric.name] = finite(score.value)
                row["reasons"].pop(metric.name, None)
                if score.reason is not None:
                    row["reasons"][metric.name] = score.reason


def _digest(contents: Sequence[str]) -> str | None:
    """One hash of the reference's files, whatever their order."""
    return hashlib.sha256("".join(sorted(contents)).encode()).hexdigest() if contents else None


def _warnings(
    rows: Sequence[dict[str, Any]], items: Sequence[VideoItem], reference_rows: Sequence[dict[str, Any]]
) -> list[str]:
    """What a reader of the numbers should know about the set and its reference."""
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
    return words + [f"reference {row['id']}: {row['error']}" for row in reference_rows if "error" in row]
