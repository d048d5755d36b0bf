"""Several models ranked: same prompts and seeds by a metric or a reward, or the votes of people.

Every two models meet on each prompt and seed that both have; a metric's difference inside the tie band is a tie.
Ratings are Bradley-Terry with a ridge, ranks have intervals over prompts, and models that never met, directly or by way
of others, are said not to be comparable.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core import stats
from core.errors import UserError
from core.preferences import Store
from eval import result
from eval.pairs import paired
from eval.result import finite

LEADERBOARD = "leaderboard.json"
# Metrics of a whole set: they have no value per video, so no two videos can meet by them.
OF_SETS = ("fvd", "fvd_infinity", "mmd", "frame_frechet", "precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Match:
    """One meeting: `share` of it was won by `first`, 0.5 for a tie."""

    first: str
    second: str
    share: float
    prompt: str


def by_metric(sets: Mapping[str, Path | str], metric: str, tie_band: float) -> list[Match]:
    """Meetings of evaluated video sets, name -> folder, by a per-video metric.

    Raises: UserError when a set was not evaluated with this metric, or says neither direction to be better.
    """
    rows, higher = {}, True
    for name, folder in sets.items():
        entry = result.read_results(folder)["metrics"].get(metric)
        rows[name] = result.read_samples(folder)
        if entry is None or not any(metric in row for row in rows[name]):
            raise UserError(f"{folder} holds no {metric} per video; run `soralign eval {folder} --metrics {metric}`")
        if entry.get("higher_is_better") is None:
            raise UserError(f"{metric} has no better direction and cannot rank")
        higher = entry["higher_is_better"]
    matches = []
    for first, second in itertools.combinations(sets, 2):
        for one, two in paired(rows[first], rows[second]):
            a, b = one.get(metric), two.get(metric)
            if a is not None and b is not None:
                gap = (a - b) if higher else (b - a)
                share = 0.5 if abs(gap) <= tie_band else float(gap > 0)
                matches.append(Match(first, second, share, one["prompt"]))
    return matches


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


def by_votes(store: Store, aspect: str) -> list[Match]:
    """Meetings of the models that made the videos of a store; skipped and both-bad votes leave no winner.

    Raises: UserError for an aspect that was not asked.
    """
    if aspect not in store.aspects:
        raise UserError(f"aspect {aspect!r} was not asked; the store has {', '.join(store.aspects)}")
    origins = store.origins()
    shares = {"a": 1.0, "b": 0.0, "tie": 0.5}
    matches = []
    for vote in store.votes(aspect):
        models = [origins.get(path, (None, None))[0] for path in (vote.video_a, vote.video_b)]
        if models[0] and models[1] and models[0] != models[1] and vote.choice in shares:
            matches.append(Match(models[0], models[1], shares[vote.choice], vote.prompt))
    return matches


def table(matches: Sequence[Match], about: str, seed: int = 0) -> dict[str, Any]:
    """Standings, all pairs of models with their win rates, and whether they have a common scale.

    Raises: UserError when nobody met.
    """
    if not matches:
        raise UserError("no two models were compared; they need the same prompts and seeds, or votes on pairs of both")
    players = list(dict.fromkeys(name for match in matches for name in (match.first, match.second)))
    number = {name: index for index, name in enumerate(players)}
    rows = [(number[match.first], number[match.second], match.share) for match in matches]
    ranked = stats.standings(players, rows, [match.prompt for match in matches], seed=seed)
    meetings: dict[tuple[str, str], list[float]] = defaultdict(list)
    for match in matches:
        meetings[match.first, match.second].append(match.share)
        meetings[match.second, match.first].append(1 - match.share)
    met = [[(first, second) in meetings for second in players] for first in players]
    groups = stats.islands(met)
    return {
        "by": about,
        "standings": [_told(standing) for standing in ranked],
        "pairs": [
            win_rate(first, second, meetings.get((first, second), []))
            for first, second in itertools.permutations([standing.player for standing in ranked], 2)
        ],
        "comparable": len(groups) == 1,
        "groups": [[players[index] for index in group] for group in groups],
        "num_comparisons": len(matches),
        "num_prompts": len({match.prompt for match in matches}),
    }


def win_rate(first: str, second: str, shares: Sequence[float]) -> dict[str, Any]:
    """Of `first` over `second`: ties explicit and counted half, Wilson's interval; None where they never met.

    Args:
        shares: of each meeting, 1 where `first` won, 0.5 for a tie.
    """
    wins, ties = sum(share == 1 for share in shares), sum(share == 0.5 for share in shares)
    interval = stats.wilson(wins, ties, len(shares))
    numbers = {"value": finite(interval.value), "low": finite(interval.low), "high": finite(interval.high)}
    counts = {"wins": wins, "ties": ties, "losses": len(shares) - wins - ties, "n": len(shares)}
    return {"first": first, "second": second} | numbers | counts


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
    return lines
