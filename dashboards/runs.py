"""What lies in run folders, read for looking at: whatever is missing, half-written or broken is said, never raised.

An experiment is a folder as `soralign demo` leaves it (base/, aligned/, align/, compare.json, preferences.db), or any
part of one: a training run, an evaluated video set. Nothing is written. No Streamlit, no torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core import files, videoset
from core.errors import UserError

MARKERS = ("compare.json", "results.json", "metrics.jsonl", "config.yaml", "preferences.db", videoset.MANIFEST)
SET_ORDER = ("base", "aligned", "real")
NOT_SETS = ("align", "reward", "pairs", "samples", "checkpoints")
MAX_DEPTH = 3
LIVE_SECONDS = 90.0
SIGNIFICANT = 0.05
# What a run is summed up by, where it was measured; in this order.
HEADLINES = ("gold_win_rate", "physics_pass_rate", "clip_sim", "diversity")


@dataclass(frozen=True)
class Experiment:
    """One folder of results. `name` is unique among those shown together.

    Args:
        sets: evaluated or plain video sets by name, base first, aligned second.
        training: the folder with metrics.jsonl and config.yaml, if there is one.
    """

    name: str
    folder: Path
    sets: dict[str, Path]
    training: Path | None
    compare: Path | None
    store: Path | None


@dataclass(frozen=True)
class Comparison:
    """One metric of two sets: a (base) against b (aligned). None where it was not measured.

    `low` and `high` bound the difference b - a. `verdict`: "better", "worse", "unclear", or "unknown" without a test.
    """

    metric: str
    a: float | None
    b: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    method: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.p is None or self.difference is None or self.higher_is_better is None:
            return "unknown"
        if self.p >= SIGNIFICANT or self.difference == 0:
            return "unclear"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Sample:
    """One video of a set with the numbers measured on it."""

    id: str
    path: Path
    prompt: str
    seed: int | None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """The videos that two sets made for the same prompt from the same seed."""

    prompt: str
    seed: int | None
    a: Sample
    b: Sample

    def gap(self, metric: str) -> float | None:
        """b - a, or None where one is missing."""
        if metric in self.a.metrics and metric in self.b.metrics:
            return self.b.metrics[metric] - self.a.metrics[metric]
        return None


def find(roots: Sequence[Path]) -> list[Experiment]:
    """The experiments in some folders, newest first."""
    folders: dict[Path, None] = {}
    for root in roots:
        folders |= dict.fromkeys(_walk(root.resolve(), MAX_DEPTH))
    names = _unique_names(list(folders))
    found = [_experiment(folder, name) for folder, name in names.items()]
    return sorted(found, key=modified, reverse=True)


def modified(experiment: Experiment) -> float:
    """Unix time of the last change to anything that is shown; 0 for an empty one."""
    watched = [path / "metrics.jsonl" for path in (experiment.training,) if path]
    watched += [path for path in (experiment.compare, experiment.store) if path]
    watched += [folder / name for folder in experiment.sets.values() for name in ("results.json", videoset.MANIFEST)]
    return max((time_of(path) for path in watched), default=0.0)


def state(experiment: Experiment, now: float | None = None) -> str:
    """ "finished" with a comparison or results, "running" while files change, else "partial"."""
    if experiment.compare:
        return "finished"
    if modified(experiment) > (time.time() if now is None else now) - LIVE_SECONDS:
        return "running"
    only_a_set = experiment.training is None and experiment.store is None
    done = only_a_set and any((folder / "results.json").exists() for folder in experiment.sets.values())
    return "finished" if done else "partial"


def compare(experiment: Experiment) -> tuple[list[Comparison], list[str]]:
    """Every metric of the comparison, headlines first, and what could not be read.

    Without compare.json the two results are put side by side, without test; a single set fills b only.
    """
    if experiment.compare is not None:
        document, wrong = read_json(experiment.compare)
        rows = [_comparison(name, value) for name, value in _metrics(document)]
        return sorted(rows, key=_rank), wrong
    problems: list[str] = []
    values: list[dict[str, dict[str, Any]]] = []
    evaluated = [folder for folder in experiment.sets.values() if (folder / "results.json").exists()]
    for folder in evaluated[:2]:
        document, wrong = read_json(folder / "results.json")
        problems += wrong
        values.append(dict(_metrics(document)))
    if not values:
        return [], problems
    a, b = values if len(values) == 2 else ({}, values[0])
    rows = []
    for name in dict.fromkeys([*a, *b]):
        about = b.get(name) or a[name]
        rows.append(_comparison(name, about | {"a": a.get(name, {}).get("value"), "b": b.get(name, {}).get("value")}))
    return sorted(rows, key=_rank), problems


def headline(rows: Iterable[Comparison], name: str) -> Comparison | None:
    """The row of a headline metric, whatever protocol stands in its brackets."""
    return next((row for row in rows if row.metric.split("[")[0] == name), None)


def metrics(experiment: Experiment) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of metrics.jsonl that can be read, and what could not."""
    if experiment.training is None:
        return [], []
    try:
        path = experiment.training / "metrics.jsonl"
        rows = files.read_lines(path) if path.exists() else []
    except (UserError, OSError) as error:
        return [], [str(error)]
    return [row for row in rows if isinstance(row.get("step"), int | float)], []


def config(experiment: Experiment) -> dict[str, Any]:
    """config.yaml of the training run, nested keys joined by dots; empty where there is none that can be read."""
    if experiment.training is None:
        return {}
    try:
        document = yaml.safe_load((experiment.training / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dict(_flat(document)) if isinstance(document, dict) else {}


def config_difference(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """key -> {run: value} for the keys on which runs differ; a run without the key is left out."""
    keys = sorted({key for values in configs.values() for key in values})
    table = {key: {run: values[key] for run, values in configs.items() if key in values} for key in keys}
    return {
        key: row for key, row in table.items() if len(row) < len(configs) or len({repr(v) for v in row.values()}) > 1
    }


def samples(folder: Path) -> tuple[list[Sample], list[str]]:
    """The videos of a set with their numbers from samples.jsonl, and what could not be read."""
    problems: list[str] = []
    try:
        items = videoset.read(folder)
    except (UserError, OSError) as error:
        return [], [str(error)]
    measured: dict[str, dict[str, float]] = {}
    try:
        path = folder / "samples.jsonl"
        for row in files.read_lines(path) if path.exists() else []:
            numbers = {key: number(value) for key, value in row.items() if key != "seed"}
            measured[str(row.get("id"))] = {key: value for key, value in numbers.items() if value is not None}
    except (UserError, OSError) as error:
        problems.append(str(error))
    found = [Sample(item.id, item.video, item.prompt, item.seed, measured.get(item.id, {})) for item in items]
    return found, problems


def match(a: Sequence[Sample], b: Sequence[Sample]) -> list[Match]:
    """Pairs of the same prompt and seed, in the order of a. Without seeds the n-th of a prompt goes with the n-th."""

    def keyed(samples: Sequence[Sample]) -> dict[tuple[str, int | None, int], Sample]:
        counts: dict[tuple[str, int | None], int] = {}
        result = {}
        for sample in samples:
            key = (sample.prompt, sample.seed)
            counts[key] = counts.get(key, -1) + 1
            result[(*key, counts[key])] = sample
        return result

    others = keyed(b)
    return [Match(sample.prompt, sample.seed, sample, others[key]) for key, sample in keyed(a).items() if key in others]


def sort_matches(matches: Sequence[Match], metric: str | None, ascending: bool = False) -> list[Match]:
    """By the gap b - a in a metric, pairs without it last; None keeps the order."""
    if metric is None:
        return list(matches)
    measured = [(gap, pair) for pair in matches if (gap := pair.gap(metric)) is not None]
    measured.sort(key=lambda entry: entry[0], reverse=not ascending)
    return [pair for _, pair in measured] + [pair for pair in matches if pair.gap(metric) is None]


def checkpoints(experiment: Experiment) -> dict[int, Path]:
    """Training step -> the video set of sample clips made at it."""
    if experiment.training is None:
        return {}
    steps = {}
    for folder in (experiment.training / "samples").glob("step-*"):
        digits = folder.name.removeprefix("step-")
        if digits.isdecimal() and (folder / videoset.MANIFEST).exists():
            steps[int(digits)] = folder
    return dict(sorted(steps.items()))


def read_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A JSON object, or an empty one and the reason."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, [f"{path}: not readable ({error})"]
    if not isinstance(document, dict):
        return {}, [f"{path}: a JSON object is expected, seen {type(document).__name__}"]
    return document, []


def time_of(path: Path) -> float:
    """Unix time of a file's last change; 0 where it is missing."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _walk(folder: Path, depth: int) -> list[Path]:
    if not folder.is_dir():
        return []
    if any((folder / marker).exists() for marker in MARKERS) or _parts(folder):
        return [folder]
    if depth == 0:
        return []
    children = sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")
    return [found for child in children for found in _walk(child, depth - 1)]


def _parts(folder: Path) -> bool:
    """Whether a folder is a demo that has only begun: its parts are there, nothing of its own yet."""
    known = ("align", *SET_ORDER)
    return any((folder / name / marker).exists() for name in known for marker in MARKERS)


def _unique_names(folders: list[Path]) -> dict[Path, str]:
    """The folder's name, with as many parents as tell it from the others."""
    names = {}
    for folder in folders:
        for count in range(1, len(folder.parts) + 1):
            name = "/".join(folder.parts[-count:])
            if sum("/".join(other.parts[-count:]) == name for other in folders) == 1:
                break
        names[folder] = name
    return names


def _experiment(folder: Path, name: str) -> Experiment:
    def is_set(path: Path) -> bool:
        return any((path / marker).exists() for marker in ("results.json", videoset.MANIFEST))

    children = sorted(child for child in folder.iterdir() if child.is_dir() and child.name not in NOT_SETS)
    sets = {child.name: child for child in children if is_set(child)}
    sets = {key: sets[key] for key in sorted(sets, key=lambda key: _place(SET_ORDER, key))}
    if not sets and is_set(folder):
        sets = {folder.name: folder}
    training = next((path for path in (folder / "align", folder) if _is_training(path)), None)
    compare_file, store = folder / "compare.json", folder / "preferences.db"
    return Experiment(
        name,
        folder,
        sets,
        training,
        compare_file if compare_file.exists() else None,
        store if store.exists() else None,
    )


def _is_training(path: Path) -> bool:
    return any((path / marker).exists() for marker in ("metrics.jsonl", "config.yaml"))


def _place(order: Sequence[str], key: str) -> int:
    return order.index(key) if key in order else len(order)


def _metrics(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = document.get("metrics")
    return [(str(k), v) for k, v in found.items() if isinstance(v, dict)] if isinstance(found, dict) else []


def _comparison(name: str, value: dict[str, Any]) -> Comparison:
    direction, n = value.get("higher_is_better"), number(value.get("n"))
    return Comparison(
        name,
        a=number(value.get("a")),
        b=number(value.get("b")),
        difference=number(value.get("difference")),
        low=number(value.get("low")),
        high=number(value.get("high")),
        p=number(value.get("p")),
        n=None if n is None else int(n),
        unit=str(value.get("unit") or ""),
        higher_is_better=direction if isinstance(direction, bool) else None,
        method=str(value.get("method") or ""),
        reason=str(value.get("reason") or ""),
    )


def _rank(row: Comparison) -> tuple[int, str]:
    return _place(HEADLINES, row.metric.split("[")[0]), row.metric


def _flat(values: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values
