"""What several pages do alike: choosing a run, saying what is wrong, turning files into clips and numbers into text."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from core.errors import UserError
from dashboards import export, media, runs
from eval.scene import Judged, read_set
from eval.svg import number

T = TypeVar("T")
BETTER, WORSE = "#3b82d6", "#e08a1e"  # told apart by every kind of colour vision
SVG_STYLE = f"""<style>
text {{ fill: #8a8f98; font: 11px system-ui, sans-serif; }} .axis, .zero {{ stroke: #8a8f9880; }}
.whisker {{ stroke: #8a8f98; stroke-width: 2; }} .unclear {{ fill: #8a8f98; }}
.better {{ fill: {BETTER}; }} .whisker.better {{ stroke: {BETTER}; }}
.worse {{ fill: {WORSE}; }} .whisker.worse {{ stroke: {WORSE}; }}
</style>"""


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
    return read_set(Path(folder))


def samples(folder: Path) -> tuple[list[Judged], list[str]]:
    """`eval.scene.read_set`, remembered until a file of the set changes."""
    versions = tuple(runs.time_of(folder / name) for name in ("manifest.jsonl", "samples.jsonl"))
    return _samples(str(folder), versions)


def clip(path: Path, name: str, facts: str = "") -> dict[str, Any]:
    """A video as the player component takes it."""
    try:
        found = media.LIBRARY.add(path)
    except UserError as error:
        return {"error": str(error).replace(str(path), path.name), "name": name, "facts": facts}
    return found.shown(f"video of {name}") | {"name": name, "facts": facts}


def conflict_card(found: runs.Conflict, metric: str, unit: str, judge: str, facts: str) -> dict[str, Any]:
    """A card of a pair on which people and `judge` disagree: what each of them preferred, with its `metric`."""
    clips = [
        clip(sample.path, name, f"{unit} {figure(sample.metrics[metric])}")
        for sample, name in ((found.liked, "chosen in the vote"), (found.refused, f"chosen by the {judge}"))
    ]
    return {"prompt": found.prompt, "clips": clips, "facts": facts}


def page_of(entries: Sequence[T], per_page: int) -> Sequence[T]:
    """The entries of the page that the URL names; a row of page numbers where there are several."""
    number = math.ceil(len(entries) / per_page)
    page = st.pagination(number, key="page", bind="query-params") if number > 1 else 1
    start = (min(page or 1, number) - 1) * per_page
    return entries[start : start + per_page]


def drawer(label: str, key: str) -> Any:
    """An expander whose content is made once it is `.open`."""
    return st.expander(label, key=key, on_change="rerun")


def table(records: Sequence[Mapping[str, Any]]) -> None:
    """Records as an HTML table: screen readers and the browser's search find what is in it, and nothing is loaded."""
    names = list(records[0]) if records else []
    words = {name: any(letter.isalpha() for row in records for letter in str(row[name])) for name in names}
    kind = {name: ' class="text"' if words[name] else "" for name in names}
    head = "".join(f"<th{kind[name]}>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td{kind[name]}>{escape(row[name])}</td>' for name in names)}</tr>" for row in records
    )
    html_table(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def html_table(markup: str, kind: str = "sora-table") -> None:
    """Rows of HTML as a table that scrolls in itself where it is too wide."""
    st.html(f'<div class="sora-scroll" tabindex="0"><table class="{kind}">{markup}</table></div>')


def picture(drawn: str, label: str) -> str:
    """An SVG of `eval.svg` as an image: Streamlit takes drawings out of the HTML it is given, not images."""
    own = str(drawn).replace(">", f' xmlns="http://www.w3.org/2000/svg">{SVG_STYLE}', 1)
    data = base64.b64encode(own.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(label)}">'


def downloads(name: str, rows: Sequence[Mapping[str, Any]], markdown: Callable[[], str] | None = None) -> None:
    """Buttons that save rows as a file, made when they are pressed."""
    kinds = {kind: ending for kind, ending in export.KINDS.items() if kind != "Markdown" or markdown is not None}
    for column, (kind, ending) in zip(st.columns([1] * len(kinds) + [8 - len(kinds)]), kinds.items(), strict=False):
        data = markdown if kind == "Markdown" and markdown else partial(export.encode, list(rows), kind)
        column.download_button(kind, data, f"{name}.{ending}", key=f"{name} {kind}", width="stretch", on_click="ignore")


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
