"""Which logged numbers of a training run are worth a curve, and in which order. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

# Logged names in the order in which a run is judged; the rest follows by name.
ORDER = ("reward/total", "reward/", "judge/", "eval/", "align/approx_kl", "align/kl_reference", "align/clip_fraction")
TELLING = (*ORDER, "align/diversity")
SPREADS = ("_p10", "_p50", "_p90", "_std", "/std", "/p10", "/p50", "/p90", "/masked")


def ordered(names: Iterable[str]) -> list[str]:
    """Rewards, judges, signs of health, then everything else, times last."""

    def place(name: str) -> tuple[bool, int, str]:
        return name.startswith("time/"), next((i for i, key in enumerate(ORDER) if name.startswith(key)), 99), name

    return sorted(names, key=place)


def is_telling(name: str) -> bool:
    """Whether a logged number is shown at once: rewards, judges and the signs of a run that goes wrong."""
    return name.startswith(TELLING) and not name.endswith(SPREADS) and name.count("/") == 1
