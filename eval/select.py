"""Which metrics a name means. Torch-free until a reward is asked for."""

from __future__ import annotations

from collections.abc import Container, Sequence

from core.registry import resolve, unknown
from eval import METRICS
from eval.backbones import OWN as OWN_BACKBONES
from eval.flow import OWN as OWN_ESTIMATORS
from eval.protocol import Metric

REWARD = "reward["  # reward[NAME]: the score of a reward, or of a trained one by its folder, as a metric


def metrics(names: Sequence[str], weights: Container[str] = (), lacking: Container[str] = ()) -> list[Metric]:
    """Metrics by full name, by name without its protocol ("fvd"), by group ("physics"), or "all", in table order.

    "all" and groups leave out what needs other weights, "all" also what this set lacks. A full name leaves nothing out:
    the results then say why it did not run.

    Args:
        weights: names of the backbones whose files are given.
        lacking: words of Metric.needs that this set cannot meet ("state", "paired").
    Raises: UserError with near names for one that fits none.
    """
    groups = {known.partition("/")[0].partition("[")[0] for known in METRICS}
    chosen: dict[str, None] = {}
    for name in names:
        if name.startswith(REWARD) and name.endswith("]"):
            chosen[name] = None
            continue
        fits = [known for known in METRICS if name in ("all", known, known.partition("[")[0], known.partition("/")[0])]
        if not fits:
            raise unknown(name, {"all", "reward[NAME]", *METRICS, *groups}, "metric")
        for known in fits:
            one = metric(known)
            out_of_place = name == "all" and any(need in lacking for need in one.needs)
            if known == name or (can_run(one, weights) and not out_of_place):
                chosen[known] = None
    order = [name for name in METRICS if name in chosen] + [name for name in chosen if name not in METRICS]
    return [metric(name) for name in order]


def metric(name: str) -> Metric:
    """One metric by its full name."""
    if name.startswith(REWARD):
        from eval import rewards

        return rewards.metric(name.removeprefix(REWARD).removesuffix("]"))
    return resolve(METRICS, name, "metric")


def can_run(metric: Metric, weights: Container[str]) -> bool:
    """Are all the weights here that a metric needs?"""
    backbone, estimator = metric.backbone, metric.estimator
    return (backbone is None or backbone in OWN_BACKBONES or backbone.partition(",")[0] in weights) and (
        estimator is None or estimator in OWN_ESTIMATORS or estimator in weights
    )
