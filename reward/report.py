"""What a preference model is worth on prompts it was not trained on: agreement, baselines, honesty of chances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.files import finite_or_null
from core.stats import mean_interval
from reward import accuracy
from reward.bradley_terry import TIE, A, B
from reward.examples import Examples
from reward.preference_model import PreferenceModel
from reward.train_config import TrainConfig

NUM_ERRORS = 12  # that a report names


def judge(
    model: PreferenceModel, features: Tensor, data: Examples, parts: Sequence[Tensor], config: TrainConfig
) -> dict[str, Any]:
    """The report of a model on the held-out part; every number with n and, where it is an accuracy, an interval."""
    with torch.no_grad():
        utility = model.utilities(features).mean(0)
        chances = model.probabilities(features[data.pair[:, 0]], features[data.pair[:, 1]])
    difference = utility[data.pair[:, 0]] - utility[data.pair[:, 1]]
    aspects = by_aspect(difference, chances, data, parts)
    for column, aspect in enumerate(data.aspects):
        aspects[aspect] |= {
            "temperature": float(model.temperature[column]),
            "theta": float(model.log_theta[column].exp()),
            "lapse": float(model.lapse[column]),
        }
    return {
        "aspects": aspects,
        "worst_errors": worst_errors(chances[:, -1], data, parts[2]),
        **counts(data, parts),
        "backbone": f"{model.backbone.kind} {model.backbone.weights} {model.backbone.sha256[:12]}",
        "config": asdict(config),
    }


def worst_errors(chances: Tensor, data: Examples, held_out: Tensor) -> list[dict[str, Any]]:
    """Held-out votes of the closing aspect that chances [pair, 3] contradict, those first of which they are surest.

    `confidence` is the chance of the refused video among those of the two, ties aside.
    """
    found = []
    choices = data.choices[:, -1].tolist()
    for row in held_out.tolist():
        choice = choices[row]
        if choice == TIE:
            continue
        other = B if choice == A else A
        confidence = float(chances[row, other] / (chances[row, choice] + chances[row, other]))
        if confidence > 0.5:
            pair = data.pair[row].tolist()
            liked, refused = (data.videos[pair[0 if side == A else 1]] for side in (choice, other))
            told = {"prompt": data.pair_prompts[row], "liked": str(liked), "refused": str(refused)}
            found.append(told | {"confidence": confidence})
    return sorted(found, key=lambda one: -one["confidence"])[:NUM_ERRORS]


def counts(data: Examples, parts: Sequence[Tensor]) -> dict[str, Any]:
    """How much there was to learn from."""
    return {
        "num_videos": len(data.videos),
        "num_prompts": len(set(data.pair_prompts)),
        "num_pairs": dict(zip(("training", "calibration", "held_out"), map(len, parts), strict=True)),
    }


def by_aspect(
    difference: Tensor, chances: Tensor, data: Examples, parts: Sequence[Tensor]
) -> dict[str, dict[str, Any]]:
    """Per aspect what the differences [pair, aspect] of utilities and the chances [pair, aspect, 3] are worth."""
    prompts = data.pair_prompts
    choice = data.choices.numpy()
    told = {}
    for column, aspect in enumerate(data.aspects):
        asked = data.votes[:, column].sum(-1) > 0
        rows = [part[asked[part]].numpy() for part in parts]
        clusters = [prompts[row] for row in rows[2]]
        numbers = (difference[:, column].double().numpy(), choice[:, column], chances[:, column].numpy())
        told[aspect] = _judge_aspect(*numbers, rows, clusters)
    return told


def _judge_aspect(
    difference: np.ndarray, choice: np.ndarray, chances: np.ndarray, rows: list[np.ndarray], clusters: list[str]
) -> dict[str, Any]:
    learning, calibrating, held_out = rows
    if not len(held_out):
        return {"reason": "no held-out pair was asked about this aspect"}
    seen, judged = choice[held_out], difference[held_out]
    right = accuracy.correct_without_ties(judged, seen)
    decided = seen != TIE
    threshold = accuracy.tie_threshold(difference[calibrating], choice[calibrating]) if len(calibrating) else -1.0
    predicted = accuracy.decisions(judged, threshold)
    counts = np.bincount(choice[learning], minlength=3)
    side = A if counts[A] >= counts[B] else B
    two = chances[held_out][:, [A, B]]
    confidence = two.max(1) / two.sum(1)
    return {
        "accuracy": finite_or_null(asdict(mean_interval(right, clusters))),
        "majority": float(np.mean(seen[decided] == side)) if decided.any() else None,
        "random": 0.5,
        "accuracy_with_ties": finite_or_null(asdict(mean_interval(predicted == seen, clusters))),
        "majority_with_ties": float(np.mean(seen == int(np.argmax(counts)))),
        "random_with_ties": accuracy.chance(predicted, seen),
        "tie_rate": float(np.mean(~decided)),
        "threshold": threshold,
        "brier": accuracy.brier_score(chances[held_out], np.eye(3)[seen]),
        **(_honesty(confidence[decided], right[decided]) if decided.any() else {"calibration_error": None}),
    }


def _honesty(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Calibration error of decided votes beside what chance alone leaves of it, without that, and the curve behind."""
    return {
        "calibration_error": accuracy.expected_calibration_error(confidence, right),
        "calibration_floor": accuracy.calibration_floor(confidence),
        "calibration_debiased": math.sqrt(max(0.0, accuracy.debiased_calibration_square(confidence, right))),
        "reliability": [asdict(one) for one in accuracy.reliability_curve(confidence, right)],
    }


def summary(report: dict[str, Any]) -> str:
    """The report as a table for a terminal."""
    heading = f"{'majority':>10}{'random':>8}"
    lines = [
        f"{'held-out accuracy':<18}{'':>18}{heading}   {'with ties':>9}{heading}{'ECE':>7}{'floor':>7}{'debiased':>10}"
    ]
    for aspect, row in report["aspects"].items():
        if "reason" in row:
            lines.append(f"{aspect:<18}{row['reason']}")
            continue
        plain, ties = row["accuracy"], row["accuracy_with_ties"]
        between = f"{_short(plain['value'])} [{_short(plain['low'])}, {_short(plain['high'])}]"
        lines.append(
            f"{aspect:<18}{between:>18}{_short(row['majority']):>10}{_short(row['random']):>8}   "
            f"{_short(ties['value']):>9}{_short(row['majority_with_ties']):>10}{_short(row['random_with_ties']):>8}"
            f"{_short(row['calibration_error']):>7}{_short(row.get('calibration_floor')):>7}"
            f"{_short(row.get('calibration_debiased')):>10}"
        )
    more = [(f"at noise {level}", one) for level, one in report.get("levels", {}).items()]
    more += [(f"of {point['num_pairs']} pairs", point["accuracy"]) for point in report.get("learning_curve", [])]
    for name, one in more:
        if one is not None:
            lines.append(f"{name:<18}{_short(one['value'])} [{_short(one['low'])}, {_short(one['high'])}]")
    pairs = report["num_pairs"]
    return "\n".join(
        [
            *lines,
            f"pairs: {pairs['training']} training, {pairs['calibration']} calibration, {pairs['held_out']} held out",
        ]
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".replace("0.", ".", 1)
