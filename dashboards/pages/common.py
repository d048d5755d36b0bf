"""What several pages do alike: choosing a run, saying what is wrong, turning files into clips and numbers into text."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import streamlit as st

from core.errors import UserError
from dashboards import media, runs
from eval.svg import number


def choose(experiments: list[runs.Experiment]) -> runs.Experiment:
    """One experiment, by a selector that also stands in the URL."""
    names = [experiment.name for experiment in experiments]
    if len(names) == 1:
        return experiments[0]
    narrow, _ = st.columns([1, 2])
    name = narrow.selectbox("Run", names, key="run", bind="query-params", persist_state="session")
    return experiments[names.index(name)] if name in names else experiments[0]


def report_problems(problems: Iterable[str]) -> None:
    """A warning for each file that could not be read; the rest of the page goes on."""
    for problem in dict.fromkeys(problems):
        st.warning(plain(problem), icon=":material/warning:")


def empty(message: str) -> None:
    """What a page says that has nothing to show, and why."""
    st.info(message, icon=":material/hourglass_empty:")


@st.cache_data(max_entries=64, show_spinner=False)
def _samples(folder: str, versions: tuple[float, ...]) -> Any:
    return runs.samples(Path(folder))


def samples(folder: Path) -> tuple[list[runs.Sample], list[str]]:
    """`runs.samples`, remembered until a file of the set changes."""
    versions = tuple(runs.time_of(folder / name) for name in ("manifest.jsonl", "samples.jsonl"))
    return _samples(str(folder), versions)


def clip(path: Path, name: str, facts: str = "") -> dict[str, Any]:
    """A video as the player component takes it."""
    try:
        found = media.LIBRARY.add(path)
    except UserError as error:
        return {"error": str(error), "name": name, "facts": facts}
    return {
        "url": found.url,
        "width": found.width,
        "height": found.height,
        "fps": found.fps,
        "frames": found.num_frames,
        "alt": f"video of {name}",
        "name": name,
        "facts": facts,
    }


def figure(value: float | None, signed: bool = False) -> str:
    """Three significant digits, or a dash."""
    return ("+" if signed and value is not None and value > 0 else "") + number(value)


def plain(text: str) -> str:
    """Text as it is, where Streamlit would read Markdown."""
    for character in "\\`*_[]<>$:#~|":
        text = text.replace(character, "\\" + character)
    return text


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)
