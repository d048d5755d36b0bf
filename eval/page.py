"""What both reports show alike: films of scenes with their numbers under them, and a template made into one file.

A page holds its films itself, so there is a limit to how many fit; what was drawn and did not fit is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval import gallery, svg
from eval.gallery import Film, Trails
from eval.result import JUDGE
from eval.scene import Judged, Scene, Tracks

HERE = Path(__file__).parent
PAGE_BYTES = 5_000_000  # of films and strips; the rest of a page is about a hundred thousand
SHOWN = {JUDGE: "judge", "physics_pass_rate": "physics", "clip_sim": "text match"}  # metric -> its word


@dataclass(frozen=True)
class Fact:
    """One number under a video; `is_best` where it is above that of every other video of the scene."""

    name: str
    text: str
    is_best: bool


@dataclass(frozen=True)
class Shown:
    """A scene on the page: its film, and per video the name of its set and what was measured."""

    prompt: str
    seed: int | None
    film: Film
    sides: list[tuple[str, list[Fact]]]
    verdict: str


@dataclass(frozen=True)
class Draw:
    """Some scenes and the rule by which they were chosen."""

    title: str
    rule: str
    shown: list[Shown]


class Reel:
    """Makes the films of a page, each once, until the page is full.

    Args:
        tracks: set -> video id -> a line of tracks.jsonl, drawn over the films.
        verdict: what is said about a scene as a whole.
    """

    def __init__(self, tracks: Mapping[str, Tracks], verdict: Callable[[Scene], str] = lambda scene: "") -> None:
        self.tracks = tracks
        self.verdict = verdict
        self.notes: list[str] = []
        self._films: dict[Path, Film] = {}
        self._num_bytes = 0
        self._left_out = 0

    def draw(self, title: str, rule: str, scenes: Sequence[Scene]) -> Draw:
        """The scenes that fit; one that cannot be decoded is shown as a note in its place."""
        shown = [one for scene in scenes if (one := self._show(scene)) is not None]
        return Draw(title, rule, shown)

    def said(self) -> list[str]:
        """What the reader should know about the films."""
        full = f"{self._left_out} more scenes were drawn but would make this page too large."
        return [*self.notes, *([full] if self._left_out else [])]

    def _show(self, scene: Scene) -> Shown | None:
        videos = {name: one for name, one in scene.videos.items() if one is not None}
        first = next(iter(videos.values())).path
        film = self._films.get(first)
        if film is None:
            trails = [gallery.trails(self.tracks.get(name, {}).get(one.id)) for name, one in videos.items()]
            film = self._made(first, [one.path for one in videos.values()], trails, scene)
        return None if film is None else Shown(scene.prompt, scene.seed, film, sides(videos), self.verdict(scene))

    def _made(self, first: Path, paths: Sequence[Path], trails: Sequence[Trails], scene: Scene) -> Film | None:
        film = gallery.film(paths, trails)
        if self._num_bytes + film.num_bytes > PAGE_BYTES:
            self._left_out += 1
            return None
        if film.problem:
            self.notes.append(f"{scene.prompt!r}, seed {scene.seed}, is not shown: {film.problem}.")
        self._num_bytes += film.num_bytes
        self._films[first] = film
        return film


def sides(videos: Mapping[str, Judged]) -> list[tuple[str, list[Fact]]]:
    """Per set the judge, physics and text match of its video, as far as they were measured."""
    measured = dict.fromkeys(name for one in videos.values() for name in one.metrics)
    names = [name for family in SHOWN for name in measured if name.split("[")[0] == family]
    return [(label, [_fact(one, name, videos.values()) for name in names]) for label, one in videos.items()]


def _fact(video: Judged, name: str, videos: Iterable[Judged]) -> Fact:
    value = video.metrics.get(name)
    others = [other.metrics.get(name) for other in videos if other is not video]
    is_best = value is not None and all(other is None or other < value for other in others)
    text = _passed(video) if name == "physics_pass_rate" else svg.number(value)
    return Fact(SHOWN[name.split("[")[0]], text, is_best)


def _passed(video: Judged) -> str:
    """passes, or fails and by which probes."""
    value, outside = video.metrics.get("physics_pass_rate"), video.reasons.get("physics_pass_rate")
    if value is None:
        return "\u2013"
    return "passes" if value >= 0.5 else f"fails: {outside}" if outside else "fails"


def render(template: str, **values: Any) -> str:
    """A template of this folder as one self-contained page."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def joined(*names: str) -> Markup:
        return Markup("".join((HERE / name).read_text(encoding="utf-8") for name in names))

    style, script = joined("report.css", "plot.css"), joined("plot.js", "report.js")
    return environment.get_template(template).render(style=style, script=script, **values)
