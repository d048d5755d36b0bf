"""Several evaluated sets on one page: who is best, who beats whom, every metric side by side, the same scenes in a row.

The same kind of page as eval.report, for more than two models or for several runs: no network, videos embedded, a pure
function of what the evaluations left on disk. No torch.

    ranking -> win rates -> metrics with intervals -> the same prompts and seeds -> where it comes from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import files
from core.errors import UserError
from eval import gallery, leaderboard, page, result, svg, verdict
from eval.folder import plain
from eval.result import JUDGE, TIE_BAND, as_dict, as_list, finite
from eval.scene import Scene, Tracks, read_set, read_tracks, side_by_side
from eval.verdict import Row

FACTS = ("models", "num_videos", "commit", "created", "reference_sha256")


@dataclass(frozen=True)
class Sets:
    """Evaluated sets by name: results.json, videos of the same prompts and seeds, tracks, and what could not be read.

    `ranking` is leaderboard.table by `metric`, empty where no metric can rank them.
    """

    results: dict[str, dict[str, Any]]
    scenes: list[Scene]
    tracks: dict[str, Tracks]
    metric: str
    ranking: dict[str, Any]
    notes: list[str]

    @classmethod
    def read(cls, folders: Mapping[str, Path]) -> Sets:
        """Raises: UserError for a set that was not evaluated."""
        results = {name: result.read_results(folder) for name, folder in folders.items()}
        notes = [f"{name}: {word}." for name, one in results.items() for word in as_list(one.get("warnings"))]
        videos, tracks = {}, {}
        for name, folder in folders.items():
            videos[name], wrong = read_set(folder)
            tracks[name], also_wrong = read_tracks(folder)
            notes += [problem.replace(str(folder), name) for problem in [*wrong, *also_wrong]]
        scenes = [one for one in side_by_side(videos) if sum(video is not None for video in one.videos.values()) > 1]
        known = leaderboard.rankable({name: one["metrics"] for name, one in results.items()})
        metric, ranking = known[0] if known else "", {}
        try:
            having = {name: folder for name, folder in folders.items() if metric in results[name]["metrics"]}
            ranking = leaderboard.table(leaderboard.by_metric(having, metric, TIE_BAND), metric) if known else {}
        except UserError as error:
            notes.append(f"Not ranked: {error}.")
        if ranking and not ranking["comparable"]:
            groups = " | ".join(", ".join(group) for group in ranking["groups"])
            notes.append(f"No common scale for groups without a prompt and seed in common: {groups}.")
        return cls(results, scenes, tracks, metric, ranking, notes)

    @property
    def rows(self) -> list[tuple[Row, dict[str, Any]]]:
        """(what the metric is, set -> its entry) for every metric, headlines first, parts of metrics left out."""
        last = list(self.results.values())[-1]
        known = verdict.rows({}, {}, last)
        entries = {name: one["metrics"] for name, one in self.results.items()}
        return [
            (row, {name: metrics[row.name] for name, metrics in entries.items() if row.name in metrics})
            for row in known
            if not row.is_detail
        ]


def find(folders: Sequence[str]) -> dict[str, Path]:
    """Evaluated sets by their shortest distinct names: each folder, or those in it, as `soralign demo` leaves them.

    Raises: UserError for a folder that holds none, or when one is given twice.
    """
    found = []
    for folder in map(Path, folders):
        inside = sorted(path.parent for path in folder.glob(f"*/{result.RESULTS}"))
        own = [folder] if (folder / result.RESULTS).is_file() else inside
        if not own:
            raise UserError(f"{folder} holds no {result.RESULTS}; run `soralign eval` on a video set first")
        found += sorted(own, key=lambda path: path.name != "base")
    return leaderboard.named([str(path) for path in found])


def write(folders: Mapping[str, Path], path: Path) -> None:
    """Write the page of these sets.

    Raises: UserError for a set that was not evaluated.
    """
    files.atomic_write(path, _render(Sets.read(folders)))


def markdown(folders: Mapping[str, Path]) -> str:
    """The page as Markdown tables for a model card: ranking, win rates, metrics. No videos.

    Raises: UserError for a set that was not evaluated.
    """
    sets = Sets.read(folders)
    lines = [f"**{headline(sets)}**", ""]
    if sets.ranking:
        lines += ["| rank | model | rating | 95 % interval | wins | comparisons |", "|---|---|---|---|---|---|"]
        for one in sets.ranking["standings"]:
            interval = f"{svg.number(one['low'])} to {svg.number(one['high'])}"
            cells = [
                leaderboard.ranks(sets.ranking, one),
                one["player"],
                svg.number(one["rating"]),
                interval,
                svg.share(one["win_rate"]),
                one["n"],
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        matrix = leaderboard.matrix(sets.ranking)
        names = [name for name, _ in matrix]
        lines += ["", f"| wins of row over column | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for name, row in matrix:
            lines.append(f"| {name} | {' | '.join(svg.share(one['value']) if one else '' for one in row)} |")
    lines += ["", f"| metric | {' | '.join(sets.results)} |", "|---" * (len(sets.results) + 1) + "|"]
    for about, entries in sets.rows:
        values = [_told(about, entries.get(name, {})) for name in sets.results]
        lines.append(f"| {about.name} | {' | '.join(values)} |".replace("[", "\\["))
    return "\n".join([*lines, "", *sets.notes]) + "\n"


def headline(sets: Sets) -> str:
    """Who is first, in a sentence, as far as the rank intervals say so."""
    if not sets.ranking:
        return f"{len(sets.results)} sets side by side; no metric ranks them."
    standings = sets.ranking["standings"]
    first = [one["player"] for one in standings if one["rank_low"] == 1]
    by = "the judge" if sets.metric == JUDGE else sets.metric
    if not sets.ranking["comparable"]:
        return f"{len(standings)} sets by {by}, in {len(sets.ranking['groups'])} groups that never met."
    if len(first) == 1:
        return f"{first[0]} is best of {len(standings)} by {by}."
    return f"No single best by {by}: {', '.join(first)} may each be first."


def _render(sets: Sets) -> str:
    reel = page.Reel(sets.tracks)
    drawn = gallery.at_random(sets.scenes)
    rule = f"drawn with seed {gallery.SEED} from all {len(sets.scenes)} prompts and seeds that two sets have"
    draws = [reel.draw("At random", rule, drawn)] if drawn else []
    apart = _furthest_apart(sets.scenes, sets.metric)
    if apart:
        draws.append(reel.draw("Furthest apart", f"where the sets differ most in {sets.metric}", apart))
    standings = sets.ranking.get("standings", [])
    drawn_ratings, rating_axis = svg.ratings(standings)
    return page.render(
        "report_sets.html",
        headline=headline(sets),
        notes=[*sets.notes, *reel.said()],
        names=list(sets.results),
        ranking=sets.ranking,
        metric=sets.metric,
        standings=[
            (one, leaderboard.ranks(sets.ranking, one), chart)
            for one, chart in zip(standings, drawn_ratings, strict=True)
        ],
        rating_axis=rating_axis,
        matrix=leaderboard.matrix(sets.ranking),
        draws=draws,
        metrics=[(row, chart) for row, entries in sets.rows if (chart := svg.metric(row.name, entries))],
        provenance=_provenance(sets),
        share=svg.share,
        number=svg.number,
    )


def _furthest_apart(scenes: Sequence[Scene], metric: str) -> list[Scene]:
    """The scenes with the largest spread of a metric among the sets, largest first."""

    def spread(scene: Scene) -> float:
        values = [value for value in scene.values(metric) if value is not None]
        return max(values) - min(values) if len(values) > 1 else 0.0

    return [one for one in sorted(scenes, key=spread, reverse=True)[: gallery.NUM_EXTREME] if spread(one) > 0]


def _told(row: Row, entry: Mapping[str, Any]) -> str:
    low, high = result.bounds(entry)
    interval = "" if low is None or high is None else f" ({row.shown(low)} to {row.shown(high)})"
    return row.shown(finite(entry.get("value"))) + interval


def _provenance(sets: Sets) -> list[tuple[str, list[str]]]:
    """Set -> what it is and where its numbers come from."""
    told = []
    for name, one in sets.results.items():
        about = as_dict(one.get("provenance"))
        told.append((name, [plain(about.get(key))[:24] for key in FACTS]))
    return told
