"""What lies in run folders, read for looking at: whatever is missing, half-written or broken is said, never raised.

An experiment is a folder as `soralign demo` leaves it (base/, aligned/, align/, compare.json, preferences.db), or any
part of one: a training run, an evaluated video set. Nothing is written. No Streamlit, no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core import files, videoset
from core.errors import UserError
from core.preferences import Vote
from core.run import flat
from eval import paired_tests, verdict
from eval.result import as_dict, as_list, finite
from eval.scene import Judged
from eval.verdict import Row

MARKERS = (
    "compare.json",
    "results.json",
    "metrics.jsonl",
    "config.yaml",
    "preferences.db",
    videoset.MANIFEST,
    "report.json",
)
SET_ORDER = ("base", "aligned", "real")
NOT_SETS = ("align", "reward", "pairs", "samples", "checkpoints")
MAX_DEPTH = 3
LIVE_SECONDS = 90.0


@dataclass(frozen=True)
class Experiment:
    """One folder of results. `name` is unique among those shown together.

    Args:
        sets: evaluated or plain video sets by name, base first, aligned second.
        training: the folder with metrics.jsonl and config.yaml, if there is one.
        reward: report.json of the preference model, if there is one.
    """

    name: str
    folder: Path
    sets: dict[str, Path]
    training: Path | None
    compare: Path | None
    store: Path | None
    reward: Path | None


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
    watched += [path for path in (experiment.compare, experiment.store, experiment.reward) if path]
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


def compare(experiment: Experiment) -> tuple[list[Row], list[str]]:
    """Every metric of base and aligned, headlines first, and what could not be read.

    Without compare.json the two results stand side by side, untested. A set that stands alone counts as aligned.
    """
    judged, base = judged_set(experiment), experiment.sets.get("base", Path()) / "results.json"
    paths = {
        "compare": experiment.compare,
        "base": _existing(base),
        "aligned": judged / "results.json" if judged and judged / "results.json" != base else None,
    }
    documents, problems = {}, []
    for name, path in paths.items():
        documents[name], wrong = read_json(path) if path else ({}, [])
        problems += wrong
    return verdict.rows(**documents), problems


def judged_set(experiment: Experiment) -> Path | None:
    """The set that a run is judged by: aligned, or the last one that was evaluated."""
    found = {name: path for name, path in experiment.sets.items() if (path / "results.json").exists()}
    return found.get("aligned", next(reversed(found.values()), None))


def against(baseline: Path, folder: Path, families: Sequence[str] = ()) -> tuple[list[Row], str]:
    """Every metric of a set beside that of another one, and why they could not be compared.

    Per-video metrics are paired by prompt and seed and tested, p corrected for those of the families (empty: all). A
    set metric stands untested: its permutations take seconds, `soralign compare` makes them.
    """

    reason = ""
    try:
        document = paired_tests.per_video(baseline, folder, families)
    except (UserError, OSError, KeyError) as error:
        document, reason = {}, str(error)
    sides = (read_json(path / "results.json")[0] for path in (baseline, folder))
    return verdict.rows(document, *sides), reason


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
    return dict(flat(document)) if isinstance(document, dict) else {}


def config_difference(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """key -> {run: value} for the keys on which runs differ; a run without the key is left out."""
    keys = sorted({key for values in configs.values() for key in values})
    table = {key: {run: values[key] for run, values in configs.items() if key in values} for key in keys}
    return {
        key: row for key, row in table.items() if len(row) < len(configs) or len({repr(v) for v in row.values()}) > 1
    }


def results(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Metric -> its entry in a set's results.json, and what could not be read."""
    path = folder / "results.json"
    if not path.exists():
        return {}, []
    document, problems = read_json(path)
    entries = as_dict(document.get("metrics"))
    return {name: row for name, row in entries.items() if isinstance(row, dict)}, problems


def higher_is_better(folders: Iterable[Path], metric: str) -> bool:
    """Whether more of a metric is better, as the first of these sets says that has it; also where neither way is."""
    entries = (results(folder)[0].get(metric) for folder in folders)
    return next((entry for entry in entries if entry), {}).get("higher_is_better") is not False


def evaluated(experiments: Sequence[Experiment]) -> dict[str, Path]:
    """Every set with results, by a name that says which run it is of where there are several runs."""
    several = len(experiments) > 1
    return {
        name if not several or name == experiment.name else f"{experiment.name} / {name}": folder
        for experiment in experiments
        for name, folder in experiment.sets.items()
        if (folder / "results.json").exists()
    }


@dataclass(frozen=True)
class Conflict:
    """A pair on which people and a metric disagree; `gap` is how much more the metric gives the video they refused."""

    prompt: str
    liked: Judged
    refused: Judged
    votes: int
    gap: float


def conflicts(
    votes: Sequence[Vote], samples: Sequence[Judged], metric: str, higher_is_better: bool = True
) -> list[Conflict]:
    """Pairs whose most frequent choice is not the metric's, largest gap first; ties of the votes are left out."""
    by_path = {str(sample.path): sample for sample in samples}
    counts: dict[tuple[str, str, str], list[int]] = {}
    for vote in votes:
        if vote.choice in ("a", "b"):
            counts.setdefault((vote.prompt, str(vote.video_a), str(vote.video_b)), [0, 0])["ab".index(vote.choice)] += 1
    found = []
    for (prompt, a, b), (for_a, for_b) in counts.items():
        one, two = by_path.get(a), by_path.get(b)
        if for_a == for_b or one is None or two is None:
            continue
        liked, refused = (one, two) if for_a > for_b else (two, one)
        values = refused.metrics.get(metric), liked.metrics.get(metric)
        if values[0] is None or values[1] is None:
            continue
        gap = (values[0] - values[1]) * (1 if higher_is_better else -1)
        if gap > 0:
            found.append(Conflict(prompt, liked, refused, for_a + for_b, gap))
    return sorted(found, key=lambda conflict: -conflict.gap)


def best_of_n(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """best_of_n.json of a set, of its points those whose numbers are all there, and what could not be read."""
    path = folder / "best_of_n.json"
    document, problems = read_json(path) if path.exists() else ({}, [])
    whole = []
    for one in map(as_dict, as_list(document.get("points"))):
        gold = {key: finite(as_dict(one.get("gold")).get(key)) for key in ("value", "low", "high")}
        if None not in (gold["value"], finite(one.get("n")), finite(one.get("kl"))):
            whole.append({"n": int(one["n"]), "kl": one["kl"], "gold": gold})
    return document | {"points": whole}, problems


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
    reports = (folder / "reward" / "report.json", folder / "report.json")
    return Experiment(
        name,
        folder,
        sets,
        training,
        compare=_existing(folder / "compare.json"),
        store=_existing(folder / "preferences.db"),
        reward=next((path for path in reports if path.exists()), None),
    )


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _is_training(path: Path) -> bool:
    return any((path / marker).exists() for marker in ("metrics.jsonl", "config.yaml"))


def _place(order: Sequence[str], key: str) -> int:
    return order.index(key) if key in order else len(order)
