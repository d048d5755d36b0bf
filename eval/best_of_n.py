"""What does picking the best of N by one score do to another? The cheapest alignment, and the test of a reward.

The gold score of the proxy's favourite among N samples of a prompt, averaged over all subsets of N exactly, for every N
up to the number of seeds. KL of best-of-N from the model is log N - (N - 1) / N (Stiennon et al. 2020), whatever the
model, so the curve can be read beside a training run's: where gold falls while proxy rises, the proxy is
over-optimised.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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
    """Per N: mean of proxy and gold with intervals over prompts, the KL spent, and the number of prompts.

    N ends at the number of measured samples that most prompts have; prompts with fewer are left out at every N, so that
    all points are of the same prompts.

    Args:
        rows: of samples.jsonl.
        higher: whether higher is better for proxy and gold.
    Raises: UserError when no prompt has two measured samples.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["prompt"] and row.get(proxy) is not None and row.get(gold) is not None:
            found[row["prompt"]].append((float(row[proxy]), float(row[gold])))
    sizes = Counter(len(group) for group in found.values() if len(group) > 1)
    if not sizes:
        raise UserError(f"best-of-N needs a prompt with two videos that have {proxy} and {gold}: generate more seeds")
    most = max(sizes, key=lambda size: (sizes[size], size))
    groups = {prompt: group for prompt, group in found.items() if len(group) >= most}
    sign = 1.0 if higher[0] else -1.0
    points = []
    for n in range(1, most + 1):
        point: dict[str, Any] = {"n": n, "kl": kl(n), "num_prompts": len(groups)}
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
    num_prompts = content["points"][0]["num_prompts"]
    lines = [f"best of N by {content['proxy']}: what {content['gold']} becomes ({num_prompts} prompts)"]
    for point in content["points"]:
        proxy, gold = point["proxy"], point["gold"]
        interval = "" if gold["low"] is None else f"  [{gold['low']:.4f}, {gold['high']:.4f}]"
        lines.append(f"N {point['n']:<4}KL {point['kl']:.2f}   {proxy['value']:.4f} -> {gold['value']:.4f}{interval}")
    lines.append(f"{content['gold']} is best at N = {content['best_n']}")
    return lines
