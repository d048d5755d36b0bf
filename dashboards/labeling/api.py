"""What the labeling screen says to the server, and is told: one POST with answers, one reply with the next pairs.

Every request says anew who sends it; the server remembers nothing between two. An action may come twice, because a
screen sends it until it is acknowledged: answers name their lease and undos the label they mean, so twice is once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.errors import UserError
from core.preferences import Store
from dashboards import media, service
from dashboards.labeling import entry

ROUTE = "/act"
MAX_BODY = 200_000  # bytes; an answer has some hundred
QUESTIONS = {
    "overall": "Which video is better overall?",
    "text_alignment": "Which video shows what the text says?",
    "motion_quality": "Which video moves more believably?",
    "visual_quality": "Which video looks cleaner?",
}


async def act(request: Request) -> Response:
    """Do what a screen asks for and tell it what comes next.

    Refused: other sites' pages (a JSON body makes browsers ask first, and nobody answers them; an origin must be ours),
    bodies that are too long or no JSON, people who may not come in.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"error": "This page belongs to another server."}, status_code=403)
    if request.headers.get("content-type") != "application/json":
        return JSONResponse({"error": "JSON is expected."}, status_code=415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return JSONResponse({"error": "That is too long for an answer."}, status_code=413)
    try:
        message = json.loads(body)
        who = {name: str(message["who"][name]) for name in ("annotator", "token", "project")}
        actions = message["actions"]
    except (ValueError, TypeError, KeyError):
        return JSONResponse({"error": "The message was malformed. Reload the page."}, status_code=400)
    return await run_in_threadpool(_reply, who, actions)


def _reply(who: dict[str, str], actions: Any) -> Response:
    try:
        visit = entry.admit(who["annotator"], who["token"], who["project"])
    except UserError as error:
        return JSONResponse({"error": f"Not recorded: {error}."}, status_code=403)
    try:
        acknowledged, notice = service.act(visit.store, visit.person.name, actions, 0)
        data = content(visit.store, visit.person.name, acknowledged, notice)
    except UserError as error:  # the disk, or a server behind it: the screen keeps its answers and comes again
        return JSONResponse({"error": str(error)}, status_code=503)
    return JSONResponse(data)


def content(store: Store, annotator: str, acknowledged: int = 0, notice: str | None = None) -> dict[str, Any]:
    """All the browser is told. Nothing here depends on which video is A, on who made it, or on what is a check."""
    queue = service.tasks(store, annotator)
    progress = service.progress(store, annotator)
    return {
        "time": time.time(),
        "acknowledged": acknowledged,
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
        "notice": notice,
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
