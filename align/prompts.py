"""The training prompts, and which of them a step uses: a function of seed and step, so resuming needs no cursor."""

from dataclasses import dataclass

from core.randomness import numpy_generator


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are walked through in a new random order on every pass."""

    prompts: tuple[str, ...]
    seed: int

    def at(self, step: int, count: int) -> list[str]:
        """The `count` prompts of training step `step` (0-based)."""
        chosen = []
        for index in range(step * count, (step + 1) * count):
            turn, position = divmod(index, len(self.prompts))
            order = numpy_generator(self.seed, "prompt order", turn).permutation(len(self.prompts))
            chosen.append(self.prompts[int(order[position])])
        return chosen
