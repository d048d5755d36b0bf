"""The training prompts, and which of them a step uses: a function of seed and step, so resuming needs no cursor."""

from dataclasses import dataclass

from core.randomness import walk


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are walked through in a new random order on every pass."""

    prompts: tuple[str, ...]
    seed: int

    def at(self, step: int, count: int) -> list[str]:
        """The `count` prompts of training step `step` (0-based)."""
        order = walk(len(self.prompts), step * count, count, self.seed, "prompt order")
        return [self.prompts[index] for index in order]
