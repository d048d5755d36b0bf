"""Which metrics a name means. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from core.registry import resolve, unknown
from eval import METRICS
from eval.protocol import Metric


def metrics(names: Sequence[str]) -> list[Metric]:
    """Metrics by full name, by name without its protocol ("fvd"), by group ("physics"), or "all", in table order.

    Raises: UserError with near names for one that fits none.
    """
    groups = {known.partition("/")[0].partition("[")[0] for known in METRICS}
    chosen: set[str] = set()
    for name in names:
        fits = [known for known in METRICS if name in ("all", known, known.partition("[")[0], known.partition("/")[0])]
        if not fits:
            raise unknown(name, {"all", *METRICS, *groups}, "metric")
        chosen.update(fits)
    return [resolve(METRICS, name, "metric") for name in METRICS if name in chosen]
