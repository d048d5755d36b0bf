"""The training prompts, and which of them a step uses: a function of seed and step, so resuming needs no cursor."""

from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
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


def read(path: Path) -> list[str]:
    """One prompt per line, blank lines skipped.

    Raises: UserError if the file is missing, not UTF-8 text, or empty.
    """
    try:
        prompts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"prompt file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not prompts:
        raise UserError(f"prompt file '{path}' is empty; write one prompt per line")
    return prompts
