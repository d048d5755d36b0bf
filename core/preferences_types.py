"""The nouns of the preference store: what is asked, which answers there are, a pair, a vote, a pair on loan."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from core.errors import UserError

ASPECTS = ("text_alignment", "motion_quality", "visual_quality", "overall")
CHOICES = ("a", "b", "tie", "both_bad", "skip")
ANSWERS = ("a", "b", "tie")  # that a gold pair may have
SIDES = ("left", "right", "tie", "both_bad", "skip")
WHICH_PROJECT = "which of the store's projects; its first if not given"
"""Help of `--project` wherever a command reads a store."""


@dataclass(frozen=True)
class Settings:
    """How a project asks. Shares lie in [0, 1]; gold pairs are shown only where there are some."""

    gold_share: float = 0.05
    repeat_share: float = 0.0
    min_watched: float = 0.0
    fast_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gold_share", "repeat_share", "min_watched"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, seen {getattr(self, name)}")
        if not self.fast_seconds >= 0:
            raise UserError(f"fast_seconds must be at least 0, seen {self.fast_seconds}")
        if self.gold_share + self.repeat_share > 0.5:
            raise UserError("gold_share and repeat_share together may be at most 0.5: labels are the purpose")

    @classmethod
    def read(cls, text: str) -> Settings:
        """From what a project stores; what a newer Soralign has added to it is left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


@dataclass(frozen=True)
class Project:
    """What is asked about which pairs, and how; a store holds one or more."""

    id: int
    name: str
    aspects: tuple[str, ...]
    settings: Settings

    @property
    def closing(self) -> str:
        """The aspect whose answer closes a label."""
        return self.aspects[-1]


@dataclass(frozen=True)
class Lease:
    """A pair lent to one annotator until `expires` (Unix seconds). `left_is` says which video stands left."""

    id: int
    pair_id: int
    prompt: str
    left: Path
    right: Path
    left_is: str
    expires: float
    left_sha256: str
    right_sha256: str


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt; `num_labels` counts finished labels and live leases, never above `target_votes`.

    A pair with `gold` has a known answer ("a", "b" or "tie"); one with `repeats` shows an earlier pair with its sides
    swapped. Both check annotators and are shown to all of them.
    """

    id: int
    prompt: str
    video_a: Path
    video_b: Path
    source: str
    sampling_probability: float
    target_votes: int
    num_labels: int
    gold: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Vote:
    """One opinion that counts. choice: "a", "b", "tie", "both_bad" or "skip"; time: Unix seconds.

    `left_is` is the video that stood left ("a" or "b"), None for votes that were not given on a screen. `seconds` is
    the time the pair was on the screen, `watched` the share of the less watched video that was played, `comment` what
    was written about it (for a skip: why); None where unknown.
    """

    pair_id: int
    prompt: str
    video_a: Path
    video_b: Path
    annotator: str
    aspect: str
    choice: str
    time: float
    left_is: str | None
    seconds: float | None = None
    watched: float | None = None
    comment: str | None = None
