"""The labeling app: `soralign label --store FILE`. One screen, one key per pair.

The screen itself is a component (components/label.js); this script says which pair it shows and stores what it answers.
Run by Streamlit with the store's path in `sys.argv`; every rerun starts from the store, nothing is remembered here.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import streamlit as st

from core.errors import UserError
from core.preferences import Store
from dashboards import media, service
from dashboards.components import label_screen

NUM_PRELOADED = 2
QUESTIONS = {
    "overall": "Which video is better overall?",
    "text_alignment": "Which video shows what the text says?",
    "motion_quality": "Which video moves more believably?",
    "visual_quality": "Which video looks cleaner?",
}
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 2.2rem 1.5rem 1rem; }
[data-testid="stHeader"] { background: transparent; }
</style>"""


@st.cache_resource
def open_store(path: str) -> Store:
    """One store for all sessions of this process."""
    return Store(path)


def page() -> None:
    st.html(STYLE)
    store = open_store(sys.argv[1])
    try:
        annotator = service.check_name(st.query_params.get("annotator", ""))
    except UserError:
        ask_name(store)
        return
    st.session_state.setdefault("turn", secrets.token_hex(4))
    task = service.current(store, annotator)
    label_screen(
        key="screen",
        data=screen(store, annotator, task),
        on_action_change=lambda: act(store, annotator, st.session_state["screen"].get("action")),
    )


def act(store: Store, annotator: str, action: Any) -> None:
    """Do what the screen sent: an answer with its lease, or an undo. Runs before the page is drawn again."""
    if not isinstance(action, dict):
        return
    if action.get("undo"):
        notice = service.undo(store, annotator)
    else:
        notice = service.answer(store, annotator, action.get("lease"), action.get("pair"), action.get("answers"))
    st.session_state["notice"] = notice
    st.session_state["turn"] = secrets.token_hex(4)


def screen(store: Store, annotator: str, task: service.Task | None) -> dict[str, Any]:
    """All the browser is told. Nothing here depends on which video is A, or on who made it."""
    progress = service.progress(store, annotator)
    return {
        "turn": st.session_state["turn"],
        "annotator": annotator,
        "aspects": [
            {
                "id": aspect,
                "name": service.readable(aspect),
                "question": QUESTIONS.get(aspect, f"Which video is better: {service.readable(aspect)}?"),
            }
            for aspect in store.aspects
        ],
        "pair": None if task is None else shown(task),
        "preload": preload(store, annotator),
        "progress": {"done": progress.done, "remaining": progress.remaining, "pace": progress.pace_seconds},
        "notice": st.session_state.get("notice"),
    }


def shown(task: service.Task) -> dict[str, Any]:
    left, right = clip(task.left, "left"), clip(task.right, "right")
    return {
        "lease": task.lease,
        "pair": task.pair,
        "prompt": task.prompt,
        "left": left,
        "right": right,
        "broken": "error" in left or "error" in right,
    }


def clip(path: Path, side: str) -> dict[str, Any]:
    try:
        found = media.LIBRARY.add(path)
    except UserError:  # the message names the file, and the file's name may name the model
        return {"error": f"The {side} video is missing or damaged. Press S to skip this pair."}
    return {
        "url": found.url,
        "width": found.width,
        "height": found.height,
        "fps": found.fps,
        "frames": found.num_frames,
        "alt": f"{side} video",
    }


def preload(store: Store, annotator: str) -> list[str]:
    clips = [clip(path, "") for pair in service.upcoming(store, annotator, NUM_PRELOADED) for path in pair]
    return [found["url"] for found in clips if "url" in found]


def ask_name(store: Store) -> None:
    _, middle, _ = st.columns([1, 1.4, 1])
    with middle, st.form("name"):
        st.title("Which video is better?")
        st.write(
            "You will see two videos made for the same text. Pick the better one with the arrow keys; "
            "there are no wrong answers, and every one can be undone."
        )
        name = st.text_input("Your name", max_chars=service.MAX_NAME_LENGTH, placeholder="Ada")
        if st.form_submit_button("Start", type="primary", width="stretch"):
            try:
                st.query_params["annotator"] = service.check_name(name)
            except UserError as error:
                st.error(str(error))
            else:
                st.rerun()
        st.caption("Votes are stored under this name. Come back with the same name to go on where you stopped.")


st.set_page_config(page_title="Label videos", page_icon="⚖️", layout="wide")
# Without a navigation of our own Streamlit would offer the report app's pages/ folder, which lies beside this file.
st.navigation([st.Page(page, title="Label videos")], position="hidden").run()
