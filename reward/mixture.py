"""A weighted sum of rewards that never forgets what it was made of.

`total` is the sum of weight x value over the components; a component with stored statistics is brought to mean 0 and
standard deviation 1 first, so that weights mean the same for a cosine and for a utility. `parts` keeps every component
as it came, in its own unit, and the parts of the parts as "component/aspect".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.errors import UserError
from reward.protocol import Reward, Scores

Statistics = tuple[float, float]


class Mixture:
    """Several rewards as one.

    Args:
        weights: reward name or folder -> weight. A component is called by its own name from then on
            ("preference", not its folder); two of one name become "preference" and "preference-2".
        rewards: ready-made rewards for some of the names; the others are loaded.
        statistics: component name -> (mean, standard deviation) to normalise with, best taken from the videos that the
            preference model was trained on.
    Raises: UserError for no component, an unknown name, or a weight or statistic that is no finite number.
    """

    name = "mixture"
    version = "1"
    unit = "weighted sum"
    range = (-math.inf, math.inf)
    higher_is_better = True

    def __init__(
        self,
        weights: Mapping[str, float],
        rewards: Mapping[str, Reward] | None = None,
        statistics: Mapping[str, Statistics] | None = None,
    ) -> None:
        from reward import load

        if not weights:
            raise UserError("a mixture needs at least one NAME=WEIGHT")
        self.components: dict[str, Reward] = {}
        self.weights: dict[str, float] = {}
        for key, weight in weights.items():
            if not math.isfinite(weight):
                raise UserError(f"reward {key!r}: the weight must be a finite number, seen {weight}")
            component = (rewards or {}).get(key) or load(key)
            if not component.higher_is_better:
                weight = -weight
            same = sum(other.name == component.name for other in self.components.values())
            name = component.name if not same else f"{component.name}-{same + 1}"
            self.components[name], self.weights[name] = component, float(weight)
        self.statistics = dict(statistics or {})
        for name, (mean, deviation) in self.statistics.items():
            if name not in self.components:
                raise UserError(f"statistics for {name!r}, which is not in the mixture of {', '.join(self.components)}")
            if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
                raise UserError(
                    f"statistics of {name!r} must be a mean and a deviation above 0, seen {mean}, {deviation}"
                )
        recipe = [f"{w:g}*{n}@{self.components[n].version}~{self.statistics.get(n)}" for n, w in self.weights.items()]
        self.version = f"{Mixture.version} {' + '.join(recipe)}"
        self.differentiable = all(component.differentiable for component in self.components.values())
        self.aspects = tuple(self.components)

    def normalised(self, name: str, values: Tensor) -> Tensor:
        """The values of one component as they enter the sum, before the weight."""
        mean, deviation = self.statistics.get(name, (0.0, 1.0))
        return (values - mean) / deviation

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        parts: dict[str, Tensor] = {}
        terms = []
        for name, component in self.components.items():
            scores = component(frames, prompts)
            parts[name] = scores.total
            parts |= {f"{name}/{aspect}": values for aspect, values in scores.parts.items()}
            terms.append(self.weights[name] * self.normalised(name, scores.total))
        return Scores(torch.stack(terms).sum(0), parts)
