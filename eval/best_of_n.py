"""What does picking the best of N by one score do to another? The cheapest alignment, and the test of a reward.

The gold score of the proxy's favourite among N samples of a prompt, averaged over all subsets of N exactly, for every N
up to the number of seeds. KL of best-of-N from the model is log N - (N - 1) / N (Stiennon et al. 2020), whatever the
model, so the curve can be read beside a training run's: where gold falls while proxy rises, the proxy is
over-optimised.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.stats import mean_interval
from eval import result
from eval.result import finite

BEST_OF_N = "best_of_n.json"
Array = NDArray[np.float64]


def kl(n: int) -> float:
    """Divergence of best-of-n from the model, nats."""
    return math.log(n) - (n - 1) / n


def expected(proxy: Array, gold: Array, n: int) -> float:
    """Mean gold of the best by proxy among n of k samples [k], over all subsets; equal proxies share the win.

    A sample that r others do not beat is the best of C(r, n - 1) subsets.
    """
    k = len(proxy)
    weights = np.zeros(k)
    for value in np.unique(proxy):
        tied = proxy == value
        below = int((proxy < value).sum())
        subsets = math.comb(below + int(tied.sum()), n) - math.comb(below, n)
        weights[tied] = subsets / math.comb(k, n) / tied.sum()
    return float(weights @ gold)


def curve(
    rows: Sequence[Mapping[str, Any]], proxy: str, gold: str, higher: tuple[bool, bool] = (True, True), seed: int = 0
) -> list[dict[str, Any]]:
    """Per N: mean of proxy and gold with intervals over prompts, and the KL spent.

    Args:
        rows: of samples.jsonl; prompts with fewer than N measured samples are left out, so N ends at the fewest seeds.
        higher: whether higher is better for proxy and gold.
    Raises: UserError when no prompt has two measured samples.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.get(proxy) is not None and row.get(gold) is not None:
            groups[row["prompt"]].append((float(row[proxy]), float(row[gold])))
    most = min((len(group) for group in groups.values()), default=0)
    if most < 2:
        raise UserError(
            f"best-of-N needs two videos a prompt with {proxy} and {gold}; the fewest is {most}: generate more seeds"
        )
    sign = 1.0 if higher[0] else -1.0
    points = []
    for n in range(1, most + 1):
        point: dict[str, Any] = {"n": n, "kl": kl(n)}
        for column, name in enumerate(("proxy", "gold")):
            values = [
                expected(sign * np.array(group)[:, 0], np.array(group)[:, column], n) for group in groups.values()
            ]
            interval = mean_interval(values, list(groups), seed)
            point[name] = {"value": interval.value, "low": finite(interval.low), "high": finite(interval.high)}
        points.append(point)
    return points


def measure(folder: Path | str, proxy: str, gold: str, seed: int = 0) -> dict[str, Any]:
    """The curve of an evaluated set and where gold is highest; written to best_of_n.json beside its results.

    Raises: UserError when the set has no such metrics.
    """
    metrics = result.read_results(folder)["metrics"]
    for name in (proxy, gold):
        if name not in metrics:
            raise UserError(f"{folder} holds no {name}; it has {', '.join(sorted(metrics))}")
    higher = (metrics[proxy].get("higher_is_better") is not False, metrics[gold].get("higher_is_better") is not False)
    points = curve(result.read_samples(folder), proxy, gold, higher, seed)
    sign = 1 if higher[1] else -1
    best = max(points, key=lambda point: sign * point["gold"]["value"])
    content = {"proxy": proxy, "gold": gold, "points": points, "best_n": best["n"], "num_points": len(points)}
    result.write_json(Path(folder) / BEST_OF_N, content)
    return content


def summary(content: Mapping[str, Any]) -> list[str]:
    """The curve, line by line."""
    lines = [f"best of N by {content['proxy']}: what {content['gold']} becomes"]
    for point in content["points"]:
        proxy, gold = point["proxy"], point["gold"]
        interval = "" if gold["low"] is None else f"  [{gold['low']:.4f}, {gold['high']:.4f}]"
        lines.append(f"N {point['n']:<4}KL {point['kl']:.2f}   {proxy['value']:.4f} -> {gold['value']:.4f}{interval}")
    lines.append(f"{content['gold']} is best at N = {content['best_n']}")
    return lines
