"""What training left to say about a preference model: accuracy, honesty, what would help, and its worst errors.

Read from report.json for looking at: whatever is missing or broken is said, never raised. No Streamlit, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboards import runs
from eval.result import as_dict, as_list, finite

Share = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Accuracy:
    """How often a preference model agrees with held-out votes on one aspect, beside what no model would get.

    Shares in [0, 1]; `low` and `high` are a 95 % interval; None where there is nothing to count.
    """

    aspect: str
    kind: str  # "without ties" or "with ties"
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    majority: float | None
    random: float | None
    calibration_error: float | None
    reliability: tuple[dict[str, float], ...] = ()  # bins of said confidence: confidence, accuracy, n


@dataclass(frozen=True)
class WorstError:
    """A held-out vote that the model contradicts; `confidence` is the chance that it gave the video people refused."""

    prompt: str
    liked: Path
    refused: Path
    confidence: float


@dataclass(frozen=True)
class Report:
    """All that is shown of one preference model; empty where training said nothing.

    Args:
        by_pairs, by_noise: held-out accuracy of the closing aspect by the number of training pairs, and by the noise
            of latents.
        worst: errors on the closing aspect, those first of which the model is surest.
    """

    accuracies: tuple[Accuracy, ...] = ()
    by_pairs: Mapping[float, Share] = field(default_factory=dict)
    by_noise: Mapping[float, Share] = field(default_factory=dict)
    worst: tuple[WorstError, ...] = ()


def read(path: Path) -> tuple[Report, list[str]]:
    """What report.json says, and what could not be read."""
    document, problems = runs.read_json(path)
    aspects = {str(name): as_dict(told) for name, told in as_dict(document.get("aspects")).items()}
    report = Report(
        tuple(one for name, told in aspects.items() for one in _accuracies(name, told)),
        _shares(_learning_curve(document, list(aspects.values()))),
        _shares(as_dict(document.get("levels")).items()),
        tuple(_worst_errors(document)),
    )
    return report, problems


def _accuracies(aspect: str, row: Mapping[str, Any]) -> Iterator[Accuracy]:
    for kind, suffix in (("without ties", ""), ("with ties", "_with_ties")):
        if told := as_dict(row.get(f"accuracy{suffix}")):
            share = {key: finite(told.get(key)) for key in ("value", "low", "high", "n")}
            yield Accuracy(
                aspect,
                kind,
                share["value"],
                share["low"],
                share["high"],
                n=None if share["n"] is None else int(share["n"]),
                majority=finite(row.get(f"majority{suffix}")),
                random=finite(row.get(f"random{suffix}")),
                calibration_error=finite(row.get("calibration_error")),
                reliability=_bins(row.get("reliability")) if not suffix else (),
            )


def _learning_curve(document: Mapping[str, Any], aspects: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """(training pairs, accuracy) as written. It stops at half of the pairs; the model itself learned from all."""
    points = [
        (row.get("num_pairs"), row.get("accuracy")) for row in map(as_dict, as_list(document.get("learning_curve")))
    ]
    if points and aspects:
        points.append((as_dict(document.get("num_pairs")).get("training"), aspects[-1].get("accuracy")))
    return points


def _worst_errors(document: Mapping[str, Any]) -> Iterator[WorstError]:
    for row in map(as_dict, as_list(document.get("worst_errors"))):
        if (confidence := finite(row.get("confidence"))) is not None:
            liked, refused = (Path(str(row.get(side, ""))) for side in ("liked", "refused"))
            yield WorstError(str(row.get("prompt", "")), liked, refused, confidence)


def _shares(points: Iterable[tuple[Any, Any]]) -> dict[float, Share]:
    """Place -> value, low and high, of the points whose numbers are all there."""
    found = {}
    for place, told in points:
        try:
            at = finite(float(place))
        except (TypeError, ValueError, OverflowError):
            continue
        value, low, high = (finite(as_dict(told).get(key)) for key in ("value", "low", "high"))
        if at is not None and value is not None and low is not None and high is not None:
            found[at] = (value, low, high)
    return found


def _bins(told: Any) -> tuple[dict[str, float], ...]:
    """The points of a reliability curve whose numbers are all there."""
    rows = map(as_dict, as_list(told))
    bins = [{key: finite(row.get(key)) for key in ("confidence", "accuracy", "n")} for row in rows]
    return tuple(
        {key: value for key, value in one.items() if value is not None} for one in bins if None not in one.values()
    )
