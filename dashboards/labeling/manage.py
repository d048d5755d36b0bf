"""What changes a project: pairs from video sets, labels from files, people, rules; and what leaves it.

Everything offered lies under the store's folder, and everything uploaded is read as what it claims to be before any of
it is kept.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st

from core import preferences_io, preferences_pairing, preferences_people, videoset
from core.errors import UserError
from core.preferences import ASPECTS, Settings, Store
from dashboards import service
from dashboards.views.common import plain

EXPORTS = {
    "Raw votes, JSONL": ("votes.jsonl", "votes"),
    "Raw votes, parquet": ("votes.parquet", "votes"),
    "Preferences for Hugging Face, JSONL": ("preferences.jsonl", "preference"),
    "Preferences for Hugging Face, parquet": ("preferences.parquet", "preference"),
    "VideoAlign, CSV": ("videoalign.csv", "videoalign"),
}
MAX_DEPTH = 3  # folders below the store's that are looked through for video sets
MAX_UPLOAD = 50_000_000  # bytes


def add(store: Store) -> None:
    """Pairs from one or two video sets, into this project or a new one; labels from a file."""
    found = video_sets(store.folder)
    st.subheader("Pairs from video sets")
    if not found:
        st.info("No video set under the store's folder; `soralign generate` and `soralign world` make them.")
    with st.form("pairs", border=False):
        sets = st.multiselect(
            "Video sets", list(found), help="With one, its own videos are paired; with two, one of each."
        )
        columns = st.columns(3)
        name = columns[0].text_input(
            "Project", value=store.project, max_chars=80, help="A new name makes a new project."
        )
        count = int(columns[1].number_input("How many pairs", 1, 1_000_000, 100))
        target = int(columns[2].number_input("Annotators per pair", 1, 50, 1))
        aspects = st.multiselect(
            "Aspects of a new project; the last one closes a pair",
            ASPECTS,
            default=ASPECTS,
            format_func=service.readable,
            accept_new_options=True,
        )
        columns = st.columns(3)
        scores = columns[0].multiselect(
            "Score files",
            score_files(store.folder),
            help="Of `soralign reward score`: prefer the pairs that a reward's heads, or several rewards, doubt.",
        )
        share = columns[1].number_input("Drawn blindly, share", 0.25, 1.0, preferences_pairing.MIN_UNIFORM_SHARE, 0.05)
        gold = columns[2].selectbox(
            "Known answer", ["none", "a", "b", "tie"], help="Of every pair: hidden checks. a is the first set."
        )
        if st.form_submit_button("Add pairs", type="primary"):
            _told(
                lambda: add_pairs(
                    store,
                    [found[chosen] for chosen in sets],
                    project=name,
                    aspects=aspects,
                    count=count,
                    target_votes=target,
                    scores=[store.folder / chosen for chosen in scores],
                    uniform_share=share,
                    gold=None if gold == "none" else gold,
                )
            )
    st.subheader("Labels from a file")
    with st.form("labels", border=False, clear_on_submit=True):
        upload = st.file_uploader("JSONL, parquet or VideoAlign CSV", type=["jsonl", "parquet", "csv"])
        who = st.text_input("Whose labels, where the file does not say", value="imported", max_chars=60)
        if st.form_submit_button("Import") and upload is not None:
            _told(lambda: import_bytes(store, upload.name, upload.getvalue(), who))


def add_pairs(
    store: Store,
    folders: list[Path],
    *,
    project: str,
    aspects: list[str],
    count: int,
    target_votes: int,
    scores: list[Path],
    uniform_share: float,
    gold: str | None,
) -> str:
    """Draw pairs and put them into a project, made when it is new; a line about it.

    Raises: UserError; nothing was added then.
    """
    if not folders:
        raise UserError("choose a video set first")
    pairs = preferences_pairing.pairs_of([videoset.read(folder) for folder in folders])
    if not pairs:
        raise UserError("no two videos share a prompt; pairs need videos of the same prompt")
    count = min(count, len(pairs))
    drawn = preferences_pairing.draw(pairs, count, 0, scores, uniform_share)
    store.look_at(preferences_pairing.videos_of(drawn[0]))
    with store.transaction():
        target = store.of_project(project) if project in store.projects() else store.add_project(project, aspects)
        source = "active" if scores else "random"
        preferences_pairing.put(target, zip(*drawn, strict=True), source=source, target_votes=target_votes, gold=gold)
        target.log_event("pairs added", f"{count} to {project} from {', '.join(folder.name for folder in folders)}")
    unlike = target.num_unlike()
    note = f" {unlike} pairs have videos of different length, rate or size; annotators will see that." if unlike else ""
    return f"{count} of {len(pairs)} pairs are in {project}.{note}"


def import_bytes(store: Store, name: str, data: bytes, annotator: str) -> str:
    """Labels from an uploaded file, whose video paths start in the store's folder and may not leave it.

    Raises: UserError with the row; nothing was imported then.
    """
    if len(data) > MAX_UPLOAD:
        raise UserError(f"{name}: {len(data):,} bytes; at most {MAX_UPLOAD:,} are taken here, more on the command line")
    with tempfile.NamedTemporaryFile(suffix=Path(name).suffix.lower()) as file:
        file.write(data)
        file.flush()
        try:
            count = preferences_io.import_(store, file.name, annotator, inside=store.folder)
        except UserError as error:
            raise UserError(str(error).replace(file.name, name)) from None
    store.log_event("imported", f"{count} votes of {name} into {store.project}", annotator)
    return f"{count} votes of {name} are in {store.project}."


def export(store: Store) -> None:
    """Downloads, made when they are asked for."""
    form = st.selectbox("Form", list(EXPORTS))
    name, kind = EXPORTS[form]
    if st.button("Make the file"):
        try:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / name
                count = preferences_io.export_(store, target, kind, base=store.folder)
                data = target.read_bytes()
        except UserError as error:
            st.error(plain(str(error)))
            return
        store.log_event("exported", f"{count} rows of {store.project} as {name}")
        st.download_button(f"Download {name}, {count:,} rows", data, file_name=name, on_click="ignore", type="primary")
        st.caption("Video paths start in the store's folder.")


def rules(store: Store) -> None:
    """How this project asks."""
    settings = store.settings
    with st.form("rules", border=False):
        columns = st.columns(4)
        gold = columns[0].number_input("Gold pairs, share", 0.0, 0.5, float(settings.gold_share), 0.01)
        repeat = columns[1].number_input("Swapped repeats, share", 0.0, 0.5, float(settings.repeat_share), 0.01)
        watched = columns[2].number_input("Watch at least, share", 0.0, 1.0, float(settings.min_watched), 0.05)
        fast = columns[3].number_input(
            "Too fast below, seconds", min_value=0.0, value=float(settings.fast_seconds), step=0.5
        )
        if st.form_submit_button("Save", type="primary"):
            _told(lambda: _saved(store, gold, repeat, watched, fast))
    st.caption(
        f"Asks about {', '.join(map(service.readable, store.aspects))}. "
        "A project keeps the aspects it was made with; make another for others."
    )
    with st.form("overlap", border=False):
        most = max((pair.target_votes for pair in store.pairs()), default=1)
        target = int(st.number_input("Annotators per pair, at least", min_value=1, value=most))
        if st.form_submit_button("Raise"):
            _told(lambda: _raised(store, target))


def invite(store: Store) -> None:
    """A name, a role, and a link that is shown once."""
    st.subheader("Invite")
    with st.form("invite", border=False, clear_on_submit=True):
        columns = st.columns([2, 1, 1], vertical_alignment="bottom")
        name = columns[0].text_input("Name", max_chars=preferences_people.MAX_NAME_LENGTH)
        role = columns[1].selectbox("Role", preferences_people.ROLES)
        if columns[2].form_submit_button("Make a link", width="stretch"):
            try:
                token = preferences_people.invite(store, name, role)
            except UserError as error:
                st.error(plain(str(error)))
            else:
                st.success("Send this link; it is shown only now, and an older one of this name has ended.")
                st.code(link(st.context.url, preferences_people.check_name(name), token, store.project), language=None)


def link(here: str | None, name: str, token: str, project: str) -> str:
    """The address that lets somebody in. What stands behind the # stays in their browser (see components/door.js)."""
    parts = urlsplit(here or "http://127.0.0.1:8501")
    who = urlencode({"annotator": name, "token": token, "project": project})
    return urlunsplit((parts.scheme, parts.netloc, "/", "", who))


def video_sets(root: Path) -> dict[str, Path]:
    """Folders with a manifest under `root`, by relative name; nothing outside it, links included."""
    return {name: path.parent for name, path in _below(root, videoset.MANIFEST, parent=True).items()}


def score_files(root: Path) -> list[str]:
    """Line files under `root` that may hold scores."""
    names = _below(root, "*.jsonl", parent=False)
    return [name for name in names if Path(name).name not in (videoset.MANIFEST, "metrics.jsonl", "samples.jsonl")]


def _below(root: Path, pattern: str, *, parent: bool) -> dict[str, Path]:
    found = {}
    for depth in range(MAX_DEPTH + 1):
        for path in sorted(root.glob("/".join(["*"] * depth + [pattern]))):
            if path.resolve().is_relative_to(root.resolve()):
                shown = path.parent if parent else path
                found[shown.relative_to(root).as_posix()] = path
    return found


def _saved(store: Store, gold: float, repeat: float, watched: float, fast: float) -> str:
    values = Settings(gold_share=gold, repeat_share=repeat, min_watched=watched, fast_seconds=fast)
    store.save_settings(values)
    changed = ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(values).items())
    store.log_event("rules changed", f"{store.project}: {changed}")
    return "Saved; it holds from the next pair on."


def _raised(store: Store, target: int) -> str:
    with store.transaction():
        for pair in store.pairs():
            store.raise_target(pair.id, target)
        store.log_event("overlap raised", f"{store.project}: {target} annotators per pair")
    return f"Every pair collects at least {target} labels."


def _told(action: Callable[[], str]) -> None:
    """Do it, and say how it went."""
    try:
        st.success(plain(action()))
    except UserError as error:
        message = str(error)
        st.error(plain(message[0].upper() + message[1:]))
