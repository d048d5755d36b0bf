"""What training left to say about a preference model: accuracy, honesty, what would help, and its worst errors.

Read from report.json for looking at: whatever is missing or broken is said, never raised. No Streamlit, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


def accuracies(experiment: runs.Experiment) -> tuple[list[Accuracy], list[str]]:
    """The preference model's report, aspect by aspect, and what could not be read."""
    if experiment.reward is None:
        return [], []
    document, problems = runs.read_json(experiment.reward)
    rows = []
    for aspect, told_of in as_dict(document.get("aspects")).items():
        row = as_dict(told_of)
        for kind, suffix in (("without ties", ""), ("with ties", "_with_ties")):
            if told := as_dict(row.get(f"accuracy{suffix}")):
                share = {key: finite(told.get(key)) for key in ("value", "low", "high", "n")}
                rows.append(
                    Accuracy(
                        str(aspect),
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
                )
    return rows, problems


def varied_accuracies(experiment: runs.Experiment) -> tuple[dict[float, Share], dict[float, Share]]:
    """Held-out accuracy of the closing aspect by the number of training pairs, and by the noise of latents.

    Both empty where the report has none; what cannot be read is told by `accuracies`.
    """
    document, _ = runs.read_json(experiment.reward) if experiment.reward else ({}, [])
    rows = map(as_dict, as_list(document.get("learning_curve")))
    points = [(row.get("num_pairs"), row.get("accuracy")) for row in rows]
    if points:
        # the curve stops at half of the pairs; the model itself learned from all of them
        whole = list(as_dict(document.get("aspects")).values())[-1:]
        count = as_dict(document.get("num_pairs")).get("training")
        points += [(count, as_dict(row).get("accuracy")) for row in whole]
    return _shares(points), _shares(as_dict(document.get("levels")).items())


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


def worst_errors(experiment: runs.Experiment) -> list[WorstError]:
    """The errors that the model is surest of, surest first; what cannot be read is told by `accuracies`."""
    document, _ = runs.read_json(experiment.reward) if experiment.reward else ({}, [])
    found = []
    for row in map(as_dict, as_list(document.get("worst_errors"))):
        if (confidence := finite(row.get("confidence"))) is not None:
            liked, refused = (Path(str(row.get(side, ""))) for side in ("liked", "refused"))
            found.append(WorstError(str(row.get("prompt", "")), liked, refused, confidence))
    return found
