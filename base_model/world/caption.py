"""Words for a scene, and the scene back from the words.

Two styles are written from the same spec: short ("a red ball bounces") and descriptive (sizes, direction, event).
`parse` inverts both, so the truth of a prompt is known wherever only its text is at hand; text outside this grammar
gives None.
"""

from __future__ import annotations

import re
from typing import cast

from base_model.world.spec import COLOURS, SHAPES, SIZES, Direction, ObjectSpec, SceneSpec

_OBJECT = re.compile(rf"\ban? (?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
# Each family is known by one stem, in singular and plural.
_STEMS = {
    "projectile": r"\bthrown\b",
    "collision": r"\bhits\b",
    "pendulum": r"\bswings?\b",
    "slide": r"\bslides?\b",
    "occluder": r"\bbehind\b",
    "bounce": r"\bbounces?\b",
    "static": r"\bstays? still\b|\brests?\b",
    "uniform": r"\bmoves?\b",
}


def _noun(item: ObjectSpec, style: str) -> str:
    size = f"{item.size} " if style == "descriptive" and item.size else ""
    article = "an" if not size and item.colour == "orange" else "a"
    return f"{article} {size}{item.colour} {item.shape}"


def _join(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]


def caption(spec: SceneSpec, style: str = "descriptive") -> str:
    """The scene in words; style is "short" or "descriptive"."""
    nouns = [_noun(item, style) for item in spec.objects]
    who, s = _join(nouns), "s" if len(nouns) == 1 else ""
    be = "is" if len(nouns) == 1 else "are"
    to = f" {spec.direction}" if spec.direction else ""
    if style == "short":
        return {
            "uniform": f"{who} move{s}{to}",
            "bounce": f"{who} bounce{s}",
            "projectile": f"{who} {be} thrown{to}",
            "collision": f"{nouns[0]} hits {nouns[-1]}",
            "pendulum": f"{who} swing{s}",
            "slide": f"{who} slide{s}{to}",
            "occluder": f"{who} pass{'es' if s else ''} behind a wall",
            "static": f"{who} stay{s} still",
        }[spec.family]
    return {
        "uniform": f"{who} move{s}{to} at constant speed without gravity",
        "bounce": f"{who} fall{s} under gravity and bounce{s} on the floor",
        "projectile": f"{who} {be} thrown{to} and fl{'ies' if s else 'y'} in an arc under gravity",
        "collision": f"{nouns[0]} moves{to} and hits {nouns[-1]} without gravity",
        "pendulum": f"{who} swing{s}{to} on a rod like a pendulum",
        "slide": f"{who} slide{s}{to} on the floor and slow{s} down by friction",
        "occluder": f"{who} move{s}{to} at constant speed and pass{'es' if s else ''} behind a wall",
        "static": f"{who} rest{s} without moving",
    }[spec.family]


def parse(prompt: str) -> SceneSpec | None:
    """The scene a prompt describes; None where the text is not of this world."""
    text = prompt.lower().strip()
    objects = tuple(ObjectSpec(colour, shape, size or None) for size, colour, shape in _OBJECT.findall(text))
    family = next((name for name, stem in _STEMS.items() if re.search(stem, text)), None)
    if not objects or family is None:
        return None
    found = re.search(r"\b(?:moves?|thrown|slides?|swings?) (left|right|up|down)\b", text)
    return SceneSpec(family, objects, cast(Direction, found.group(1)) if found else None)
