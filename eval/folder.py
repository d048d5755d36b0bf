"""What a demo folder holds, read for the report: what is missing, half-written or broken becomes a note, not an error.

    compare.json  base/  aligned/  align/  reward/report.json  preferences.db

The folder of a stopped demo is a valid one; only a folder with nothing in it is refused. No torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from core import preferences_quality, videoset
from core.errors import UserError
from core.preferences import Store
from core.run import read_metrics
from core.videoset import VideoItem
from eval import verdict
from eval.result import as_dict, as_list, finite
from eval.scene import Judged, Scene, Tracks, read_set, read_tracks, side_by_side
from eval.verdict import Row

Found = TypeVar("Found")
TRAINING_STEPS_SHOWN = 5
# Key of an environment or of results.json -> how it is called on the page.
PROVENANCE = {
    "commit": "commit",
    "seed": "seed of the resampling",
    "seeds": "seeds of the videos",
    "models": "models",
    "num_videos": "videos",
    "reference": "folder of real videos",
    "num_reference": "number of real videos",
    "reference_sha256": "their files, sha256",
    "command": "command",
    "created": "measured",
    "platform": "machine",
    "python": "Python",
    "libraries": "libraries",
}


@dataclass(frozen=True)
class Demo:
    """What a demo folder holds; `notes` says what is missing or broken, in the order in which it was met."""

    name: str
    rows: list[Row]
    pairs: list[Scene]
    tracks: dict[str, Tracks]
    metrics: list[dict[str, Any]]
    config: dict[str, Any]
    plan: dict[str, Any]
    samples: dict[int, list[VideoItem]]
    reward: dict[str, Any]
    labels: dict[str, Any]
    results: dict[str, dict[str, Any]]
    compare: dict[str, Any]
    environment: dict[str, Any]
    notes: list[str]

    @classmethod
    def read(cls, folder: Path) -> Demo:
        """Raises: UserError when there is nothing that a report could be made of."""
        if not folder.is_dir():
            raise UserError(f"{str(folder)!r} is not a folder; give one that `soralign demo --out` wrote")
        reader = _Reader(folder)
        compare = reader.json("compare.json", "the metrics have no tests")
        results = {
            name: reader.json(f"{name}/results.json", f"{name} was not measured") for name in ("base", "aligned")
        }
        videos = {name: reader.videos(name) for name in ("base", "aligned")}
        for name, result in results.items():
            reader.notes += [f"{name}: {plain(warning)}." for warning in as_list(result.get("warnings"))]
        demo = cls(
            name=folder.resolve().name,
            rows=verdict.rows(compare, results["base"], results["aligned"]),
            pairs=[scene for scene in side_by_side(videos) if None not in scene.videos.values()],
            tracks={name: reader.told(read_tracks(folder / name)) for name in videos},
            metrics=reader.metrics(),
            config=reader.yaml("align/config.yaml"),
            plan=reader.yaml("config.yaml"),
            samples=reader.training_samples(),
            reward=reader.json("reward/report.json", "the reward model has no card"),
            labels=reader.labels(),
            results=results,
            compare=compare,
            environment=reader.json("align/environment.json", "") or {},
            notes=reader.notes,
        )
        if not (demo.rows or demo.pairs or demo.metrics or demo.labels or demo.reward):
            raise UserError(
                f"{folder} holds nothing to report on; expected compare.json, base/, aligned/ or align/ as "
                "`soralign demo --out` writes them"
            )
        return demo

    @property
    def tie_band(self) -> float:
        """Differences of the judge's score up to this are ties."""
        return finite(self.compare.get("tie_band")) or 0.0

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """(name, value) of what a reader needs to make the same numbers again."""
        base, aligned = (as_dict(self.results[name].get("provenance")) for name in ("base", "aligned"))
        facts = []
        for key in PROVENANCE:
            before, after = _fact(key, base.get(key)), _fact(key, aligned.get(key, self.environment.get(key)))
            value = after if before in (after, "") else f"{before} (base), {after} (aligned)"
            if value:
                facts.append((PROVENANCE[key], value))
        commit = plain(self.environment.get("commit"))
        if commit and commit != plain(aligned.get("commit")):
            facts.insert(1, ("commit of the alignment", commit))
        if finite(self.compare.get("num_pairs")):
            pairs, prompts = self.compare["num_pairs"], self.compare.get("num_prompts")
            facts.append(
                ("compared", f"{pairs} pairs of {prompts} prompts, resampled with seed {self.compare.get('seed')}")
            )
        if self.plan:
            facts.append(("settings of the demo", plain(self.plan)))
        return facts


class _Reader:
    """Reads the parts of a folder; what is missing or broken becomes a note and an empty part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def json(self, name: str, without: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            if without:
                self.notes.append(f"{name} is missing: {without}.")
            return {}
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.notes.append(f"{name} cannot be read ({error}).")
            return {}
        return as_dict(document)

    def yaml(self, name: str) -> dict[str, Any]:
        try:
            document = yaml.safe_load((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return as_dict(document)

    def metrics(self) -> list[dict[str, Any]]:
        try:
            rows = [row for row in read_metrics(self.folder / "align") if finite(row.get("step")) is not None]
        except (UserError, OSError) as error:
            self.notes.append(self._short(error))
            return []
        if not rows:
            self.notes.append("align/metrics.jsonl has no lines yet: no training curves.")
        return rows

    def videos(self, name: str) -> list[Judged]:
        return self.told(read_set(self.folder / name))

    def told(self, read: tuple[Found, list[str]]) -> Found:
        """What was read; what could not be read becomes notes."""
        found, problems = read
        self.notes += [self._short(problem) for problem in problems]
        return found

    def training_samples(self) -> dict[int, list[VideoItem]]:
        """Training step -> clips made at it, of evenly spread steps."""
        steps = {}
        for folder in sorted((self.folder / "align" / "samples").glob("step-*")):
            try:
                steps[int(folder.name.removeprefix("step-"))] = videoset.read(folder)
            except (UserError, OSError, ValueError):
                continue
        known = sorted(steps)
        last = len(known) - 1
        count = min(len(known), TRAINING_STEPS_SHOWN)
        chosen = {known[round(index * last / max(1, count - 1))] for index in range(count)}
        return {step: steps[step] for step in sorted(chosen)}

    def labels(self) -> dict[str, Any]:
        path = self.folder / "preferences.db"
        if not path.is_file():
            self.notes.append("preferences.db is missing: no counts of labels.")
            return {}
        try:
            return preferences_quality.summary(Store(path))
        except (UserError, OSError) as error:
            self.notes.append(self._short(error))
            return {}

    def _short(self, error: Exception | str) -> str:
        return str(error).replace(f"{self.folder}/", "")


def _fact(key: str, value: Any) -> str:
    """One entry of provenance as text, without this machine's folders and without 300 seeds."""
    if key == "command" and isinstance(value, list):
        return " ".join(Path(word).name if word.startswith("/") else word for word in map(str, value))
    if key == "seeds" and isinstance(value, list) and len(value) > 8:
        return f"{len(value)} different, in each set's manifest.jsonl"
    if key == "reference" and value:
        return Path(str(value)).name
    return plain(value)


def plain(value: Any) -> str:
    """A JSON value as a person writes it."""
    if value is None or value == "":
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        shown = [plain(entry) for entry in value[:8]]
        return ", ".join(shown) + (f" and {len(value) - 8} more" if len(value) > 8 else "")
    return str(value)
