"""Several models ranked: same prompts and seeds by a metric or a reward, or the votes of people.

Every two models meet on each prompt and seed that both have; a metric's difference inside the tie band is a tie.
Ratings are Bradley-Terry with a ridge, ranks have intervals over prompts, and models that never met, directly or by way
of others, are said not to be comparable.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import stats
from core.errors import UserError
from core.preferences import Store
from eval import result
from eval.paired_tests import win_interval
from eval.pairs import matched
from eval.result import finite

LEADERBOARD = "leaderboard.json"
# Metrics of a whole set: they have no value per video, so no two videos can meet by them.
OF_SETS = ("fvd", "fvd_infinity", "mmd", "frame_frechet", "precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Meetings:
    """Who met whom, one entry a meeting; arrays, because twenty models meet a hundred thousand times.

    Args:
        players: names, also of those who met nobody.
        first, second: [n] numbers of two players.
        share: [n] of it that `first` won: 1, 0, or 0.5 for a tie.
        prompts: [n] on which prompt.
    """

    players: tuple[str, ...]
    first: NDArray[np.int_]
    second: NDArray[np.int_]
    share: NDArray[np.float64]
    prompts: Sequence[str]

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, float, str]]) -> Meetings:
        """Args: rows: (first, second, share, prompt) of every meeting."""
        players = {name: n for n, name in enumerate(dict.fromkeys(name for row in rows for name in row[:2]))}
        first = np.array([players[name] for name, _, _, _ in rows], dtype=np.int_)
        second = np.array([players[name] for _, name, _, _ in rows], dtype=np.int_)
        return cls(tuple(players), first, second, np.array([row[2] for row in rows]), [row[3] for row in rows])


def by_metric(sets: Mapping[str, Path | str], metric: str, tie_band: float) -> Meetings:
    """Meetings of evaluated video sets, name -> folder, by a per-video metric.

    Raises: UserError when a set was not evaluated with this metric, or says neither direction to be better.
    """
    rows, higher = [], True
    for folder in sets.values():
        entry = result.read_results(folder)["metrics"].get(metric)
        rows.append(result.read_values(folder, metric))
        if entry is None or all(value is None for _, _, value in rows[-1]):
            raise UserError(f"{folder} holds no {metric} per video; run `soralign eval {folder} --metrics {metric}`")
        if entry.get("higher_is_better") is None:
            raise UserError(f"{metric} has no better direction and cannot rank")
        higher = entry["higher_is_better"]
    scenes = matched(rows, lambda row: row[:2])
    known = [[row[2] if row else None for row in scene] for _, scene in scenes]
    values = np.array(known, dtype=float).reshape(len(scenes), len(sets)) * (1 if higher else -1)
    first, second = np.triu_indices(len(sets), 1)
    gaps = values[:, first] - values[:, second]
    scene, pair = np.nonzero(np.isfinite(gaps))
    gap = gaps[scene, pair]
    share = np.where(np.abs(gap) <= tie_band, 0.5, gap > 0)
    return Meetings(tuple(sets), first[pair], second[pair], share, [scenes[n][0][0] for n in scene])


def rankable(entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Per-video metrics with a better direction that at least two sets have, best known first.

    Args:
        entries: set -> metric -> its entry in results.json.
    """
    counts: dict[str, int] = {}
    for metrics in entries.values():
        for name, entry in metrics.items():
            if entry.get("value") is not None and isinstance(entry.get("higher_is_better"), bool):
                counts[name] = counts.get(name, 0) + 1
    names = [name for name, count in counts.items() if count > 1 and name.split("[")[0] not in OF_SETS]
    return result.known_first(names)


def by_votes(store: Store, aspect: str) -> Meetings:
    """Meetings of the models that made the videos of a store; skipped and both-bad votes leave no winner.

    Raises: UserError for an aspect that was not asked.
    """
    if aspect not in store.aspects:
        raise UserError(f"aspect {aspect!r} was not asked; the store has {', '.join(store.aspects)}")
    origins = store.origins()
    shares = {"a": 1.0, "b": 0.0, "tie": 0.5}
    rows = []
    for vote in store.votes(aspect):
        models = [origins.get(path, (None, None))[0] for path in (vote.video_a, vote.video_b)]
        if models[0] and models[1] and models[0] != models[1] and vote.choice in shares:
            rows.append((models[0], models[1], shares[vote.choice], vote.prompt))
    return Meetings.of(rows)


def table(meetings: Meetings, about: str, seed: int = 0) -> dict[str, Any]:
    """Standings, all pairs of models with their win rates, and whether they have a common scale.

    Raises: UserError when nobody met.
    """
    if not len(meetings.share):
        raise UserError("no two models were compared; they need the same prompts and seeds, or votes on pairs of both")
    present, place = np.unique([meetings.first, meetings.second], return_inverse=True)
    first, second = place.reshape(2, -1)
    players = [meetings.players[number] for number in present]
    rows = np.column_stack([first, second, meetings.share])
    ranked = stats.standings(players, rows, meetings.prompts, seed=seed)
    met = np.zeros((len(players), len(players)))
    met[first, second] = 1
    groups = stats.islands(met)
    won = _won(first, second, meetings, len(players))
    couples = itertools.permutations([players.index(one.player) for one in ranked], 2)
    return {
        "by": about,
        "standings": [_told(one) for one in ranked],
        "pairs": [{"first": players[i], "second": players[j]} | win_rate(*won(i, j)) for i, j in couples],
        "comparable": len(groups) == 1,
        "groups": [[players[index] for index in group] for group in groups],
        "left_out": [name for name in meetings.players if name not in players],
        "num_comparisons": len(meetings.share),
        "num_prompts": len(set(meetings.prompts)),
    }


def _won(
    first: NDArray[np.int_], second: NDArray[np.int_], meetings: Meetings, count: int
) -> Callable[[int, int], tuple[NDArray[np.float64], NDArray[np.int_]]]:
    """What gives, of two of `count` players, the outcomes of their meetings for the one and the prompts' numbers.

    Sorted once, because twenty players are 380 couples.
    """
    couple = np.minimum(first, second) * count + np.maximum(first, second)
    order = np.argsort(couple, kind="stable")
    starts = np.searchsorted(couple[order], np.arange(count**2 + 1))
    outcome = (np.where(first < second, 1, -1) * (2 * meetings.share - 1))[order]  # for the smaller number
    prompts = stats.numbered(meetings.prompts)[order]

    def of(i: int, j: int) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
        place = min(i, j) * count + max(i, j)
        rows = slice(starts[place], starts[place + 1])
        return outcome[rows] if i < j else -outcome[rows], prompts[rows]

    return of


def win_rate(outcome: NDArray[np.float64], prompts: NDArray[np.int_]) -> dict[str, Any]:
    """Ties explicit and counted half; value and bounds None where two never met. Args: as `win_interval`."""
    wins, ties, losses = (int((outcome == kind).sum()) for kind in (1, 0, -1))
    numbers = dict.fromkeys(("value", "low", "high"))
    if len(outcome):
        interval = win_interval(outcome, prompts)
        numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return numbers | {"wins": wins, "ties": ties, "losses": losses, "n": len(outcome)}


def matrix(content: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """(name, its win rates over everybody), best first in both directions; None on the diagonal."""
    names = [one["player"] for one in content.get("standings", [])]
    pairs = {(one["first"], one["second"]): one for one in content.get("pairs", [])}
    return [(row, [pairs.get((row, column)) for column in names]) for row in names]


def ranks(content: Mapping[str, Any], standing: Mapping[str, Any]) -> str:
    """The rank or ranks that a row of the standings may have; a dash where groups never met."""
    low, high = standing["rank_low"], standing["rank_high"]
    if not content["comparable"]:
        return "\u2013"
    return str(standing["rank"]) if low == high else f"{low}\u2013{high}"


def _told(standing: stats.Standing) -> dict[str, Any]:
    row = asdict(standing)
    return {key: (finite(value) if isinstance(value, float) else value) for key, value in row.items()}


def named(folders: Sequence[str]) -> dict[str, Path]:
    """Folders by their shortest distinct names.

    Raises: UserError when one is given twice.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a folder is given twice; every model once")
    for depth in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = ["/".join(path.resolve().parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))


def summary(content: Mapping[str, Any]) -> list[str]:
    """What stands in the table, line by line."""
    lines = [f"leaderboard by {content['by']}: {content['num_comparisons']} comparisons"]
    for row in content["standings"]:
        rank = ranks(content, row)
        rating = f"{row['rating']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        rate = math.nan if row["win_rate"] is None else row["win_rate"]
        lines.append(f"{rank:<10}{row['player']:<28}{rating:<26}wins {rate:.0%} of {row['n']}")
    if not content["comparable"]:
        groups = " | ".join(", ".join(group) for group in content["groups"])
        lines.append(f"not comparable across groups that never met: {groups}")
    if content["left_out"]:
        lines.append(f"left out, no prompt and seed in common with another: {', '.join(content['left_out'])}")
    return lines
