"""The screen on which pairs are judged. The drawing is a component (components/label.js); this says what is on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from core.errors import UserError
from core.preferences import Store
from dashboards import media, service
from dashboards.components import label_screen
from dashboards.labeling.entry import Visit
from dashboards.pages.common import plain

QUESTIONS = {
    "overall": "Which video is better overall?",
    "text_alignment": "Which video shows what the text says?",
    "motion_quality": "Which video moves more believably?",
    "visual_quality": "Which video looks cleaner?",
}


def show(visit: Visit) -> None:
    """Draw it; store what it sends."""
    st.session_state.setdefault("acknowledged", {})
    try:
        data = content(visit.store, visit.person.name)
    except UserError as error:
        st.error(plain(f"Nothing can be labeled now. {error}"))
        st.caption("What was acknowledged is safe. Reload the page to go on.")
        return
    label_screen(
        key="screen", data=data, on_actions_change=lambda: act(visit, st.session_state["screen"].get("actions"))
    )


def act(visit: Visit, message: Any) -> None:
    """Do what the screen sent. Runs before the page is drawn again."""
    if not isinstance(message, dict) or not isinstance(message.get("client"), str):
        return
    client = message["client"][:40]
    acknowledged = st.session_state.get("acknowledged", {}).get(client, 0)
    try:
        newest, notice = service.act(visit.store, visit.person.name, message.get("actions"), acknowledged)
    except UserError as error:  # the disk, not the answer: the screen keeps it and sends it again
        newest, notice = acknowledged, str(error)
    st.session_state["acknowledged"] = {client: newest}
    st.session_state["notice"] = notice


def content(store: Store, annotator: str) -> dict[str, Any]:
    """All the browser is told. Nothing here depends on which video is A, on who made it, or on what is a check."""
    queue = service.tasks(store, annotator)
    progress = service.progress(store, annotator)
    return {
        "acknowledged": st.session_state["acknowledged"],
        "annotator": annotator,
        "project": store.project,
        "aspects": [
            {
                "id": aspect,
                "name": service.readable(aspect),
                "question": QUESTIONS.get(aspect, f"Which video is better: {service.readable(aspect)}?"),
            }
            for aspect in store.aspects
        ],
        "queue": [shown(store, task) for task in queue],
        "last": store.newest_label(annotator),
        "least": store.settings.min_watched,
        "reasons": service.SKIP_REASONS,
        "progress": {"done": progress.done, "remaining": progress.remaining, "pace": progress.pace_seconds},
        "notice": st.session_state.pop("notice", None),
    }


def shown(store: Store, task: service.Task) -> dict[str, Any]:
    """One pair as the browser gets it."""
    left = clip(store, task.left, task.left_sha256, "left")
    right = clip(store, task.right, task.right_sha256, "right")
    broken = "error" in left or "error" in right
    return {"lease": task.lease, "prompt": task.prompt, "left": left, "right": right, "broken": broken}


def clip(store: Store, path: Path, digest: str, side: str) -> dict[str, Any]:
    """One video, or why it cannot be shown. The reason names no file, whose name may name the model."""
    try:
        found = media.LIBRARY.add(path, digest)
    except media.ReplacedError as error:
        if media.LIBRARY.is_news(path):
            store.log_event("video replaced", str(error))
        return {"error": f"The {side} video was replaced after this pair was made. Press S to skip the pair."}
    except UserError as error:
        if media.LIBRARY.is_news(path):
            store.log_event("video unreadable", str(error))
        return {"error": f"The {side} video is missing or damaged. Press S to skip the pair."}
    return {
        "url": found.url,
        "width": found.width,
        "height": found.height,
        "fps": found.fps,
        "frames": found.num_frames,
        "alt": f"{side} video",
    }
