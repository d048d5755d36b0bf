"""Prompt suites: what is asked of a model, in groups, so that a mean does not hide what it cannot do.

Shipped (suites.json): attributes, counting, motion, physics, composition, unseen - all in the sandbox's grammar, so
that every answer can be checked. Others by path, in the forms in which they are published: VBench's full-info JSON
(`prompt_en`, `dimension`), VideoPhy's CSV (`caption` and a category), T2V-CompBench's one text file per category; any
JSON, JSONL or CSV with such columns works.

    python -m eval.suite        # writes eval/suites.json
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_model.world import dataset
from base_model.world.caption import caption
from base_model.world.spec import FAMILIES
from core import prompts as prompt_files
from core.errors import UserError
from core.files import atomic_write
from core.randomness import numpy_generator
from core.registry import unknown

FILE = Path(__file__).with_name("suites.json")
TEXT = ("prompt", "prompt_en", "caption", "text")
GROUP = ("group", "dimension", "category", "states_of_matter", "action", "physics_rules")
PER_SUITE = 24


@dataclass(frozen=True)
class Prompt:
    """One line of a suite; a prompt may count for several groups."""

    text: str
    groups: tuple[str, ...]


@functools.cache
def shipped() -> dict[str, list[str]]:
    """Suite -> its prompts."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def read(name_or_path: str) -> list[Prompt]:
    """A shipped suite, "all" of them, or a file.

    Raises: UserError for an unknown name, or a file without prompts in a known form.
    """
    known = shipped()
    if name_or_path == "all":
        return [Prompt(text, (name,)) for name, texts in known.items() for text in texts]
    if name_or_path in known:
        return [Prompt(text, (name_or_path,)) for text in known[name_or_path]]
    path = Path(name_or_path)
    if not path.is_file():
        raise unknown(name_or_path, {"all", *known}, "prompt suite (or file)")
    if path.suffix == ".txt":
        return [Prompt(text, (path.stem,)) for text in prompt_files.read(path)]
    try:
        rows = list(_rows(path))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not readable as {path.suffix or 'text'} ({error})") from None
    found = [prompt for row in rows if (prompt := _prompt(row, path.stem)) is not None]
    if not found:
        raise UserError(f"{path}: no prompts; expected a column {', '.join(TEXT)} and, for groups, {', '.join(GROUP)}")
    return found


def _rows(path: Path) -> Iterable[Any]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return csv.DictReader(io.StringIO(text, newline=""))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    document = json.loads(text)
    if isinstance(document, dict):  # group -> prompts
        lists = {name: entries for name, entries in document.items() if isinstance(entries, list)}
        return [{"prompt": entry, "group": name} for name, entries in lists.items() for entry in entries]
    return document if isinstance(document, list) else []


def _prompt(row: Any, otherwise: str) -> Prompt | None:
    if isinstance(row, str):
        return Prompt(row.strip(), (otherwise,)) if row.strip() else None
    if not isinstance(row, Mapping):
        return None
    text = next((str(row[key]).strip() for key in TEXT if row.get(key)), "")
    group = next((row[key] for key in GROUP if row.get(key)), otherwise)
    groups = [str(one) for one in group] if isinstance(group, list) else [str(group)]
    return Prompt(text, tuple(groups)) if text else None


def groups(suite: Iterable[Prompt]) -> dict[str, tuple[str, ...]]:
    """Prompt -> the groups that it counts for."""
    found: dict[str, dict[str, None]] = {}
    for prompt in suite:
        found.setdefault(prompt.text, {}).update(dict.fromkeys(prompt.groups))
    return {text: tuple(names) for text, names in found.items()}


def build(seed: int = 0) -> dict[str, list[str]]:
    """The shipped suites; every scene is one that the world can stage."""
    still = ("static", "uniform")
    return {
        "attributes": _draw("attributes", seed, "heldout", 1, still),
        "counting": _draw("counting", seed, "train", 3, ("static", "uniform", "bounce"), by_count=True),
        "motion": _draw("motion", seed, "train", 1, tuple(name for name in FAMILIES if name != "static")),
        "physics": _draw("physics", seed, "train", 2, ("bounce", "projectile", "collision", "pendulum", "slide")),
        "composition": _draw("composition", seed, "heldout", 2, FAMILIES, least=2),
        "unseen": _draw("unseen", seed, "unseen", 2, FAMILIES),
    }


def _draw(
    name: str,
    seed: int,
    split: str,
    most: int,
    families: tuple[str, ...],
    *,
    least: int = 1,
    by_count: bool = False,
) -> list[str]:
    """PER_SUITE different prompts; if asked, as many of each number of objects."""
    found: dict[str, None] = {}
    index = 0
    while len(found) < PER_SUITE:
        rng = numpy_generator(seed, f"suite/{name}", index)
        index += 1
        spec = dataset.draw_spec(rng, split, most, families)
        count = len(spec.objects)
        if count < least or (by_count and count != 1 + len(found) * most // PER_SUITE):
            continue
        if dataset.draw_motion(spec, rng) is not None:
            found[caption(spec)] = None
    return list(found)


if __name__ == "__main__":
    atomic_write(FILE, json.dumps(build(), indent=1) + "\n")
