"""The training prompts, and which of them a step uses: a function of seed, step and what was seen, without a cursor.

Prompts of equal weight are walked through in a new random order on every pass; with weights they are drawn. A
curriculum gives part of every step to the prompts whose groups were last seen to differ most in reward: a group whose
clips are all equally good, or all equally bad, teaches nothing. The rest of the step goes on in turn, so that no prompt
is forgotten for what it once showed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.prompts import Prompt
from core.randomness import numpy_generator, walk

LEAST = 0.1  # of the mean spread: what a prompt without any keeps, since policies change


@dataclass(frozen=True)
class PromptSet:
    """weights: how often each is drawn, None = walk through all. curriculum: share of a step drawn by spread."""

    prompts: tuple[str, ...]
    seed: int
    weights: tuple[float, ...] | None = None
    curriculum: float = 0.0

    @classmethod
    def of(cls, prompts: Sequence[Prompt], seed: int, curriculum: float = 0.0) -> "PromptSet":
        """The set of `prompts` with their weights, if they differ."""
        weights = tuple(prompt.weight for prompt in prompts)
        same = len(set(weights)) == 1
        return cls(tuple(prompt.text for prompt in prompts), seed, None if same else weights, curriculum)

    def at(self, step: int, count: int, spread: Mapping[str, float] | None = None) -> list[str]:
        """The `count` prompts of training step `step` (0-based).

        Args: spread: standard deviation of the rewards in each prompt's last group; others count as the mean of these.
        """
        drawn = round(self.curriculum * count) if spread else 0
        if self.weights is None:
            first = step * (count - drawn) + drawn  # step 0 knows of no spread and takes all of its prompts in turn
            turns = walk(len(self.prompts), first, count - drawn, self.seed, "prompt order")
        else:
            turns = self._draw(np.array(self.weights), count - drawn, step, "prompt draw")
        if drawn:
            turns += self._draw(self._chances(spread or {}, turns), drawn, step, "curriculum")
        return [self.prompts[index] for index in turns]

    def _chances(self, spread: Mapping[str, float], taken: Sequence[int]) -> np.ndarray:
        mean = float(np.mean(list(spread.values())))
        chances = np.array([max(spread.get(prompt, mean), LEAST * mean) for prompt in self.prompts])
        chances *= 1.0 if self.weights is None else np.array(self.weights)
        if len(set(taken)) < len(self.prompts):
            chances[list(taken)] = 0.0
        return chances if chances.sum() > 0 else np.ones(len(self.prompts))

    def _draw(self, chances: np.ndarray, count: int, step: int, purpose: str) -> list[int]:
        """`count` prompts at random, different ones as long as there are as many that have a chance."""
        rng = numpy_generator(self.seed, purpose, step)
        again = count > int((chances > 0).sum())
        return [int(i) for i in rng.choice(len(chances), count, replace=again, p=chances / chances.sum())]
