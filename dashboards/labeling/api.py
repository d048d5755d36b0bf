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
DOOR = "/enter"
MAX_BODY = 200_000  # bytes; an answer has some hundred
COOKIE_SECONDS = 30 * 86_400
QUESTIONS = {
    "overall": "Which video is better overall?",
    "text_alignment": "Which video shows what the text says?",
    "motion_quality": "Which video moves more believably?",
    "visual_quality": "Which video looks cleaner?",
}


async def enter(request: Request) -> Response:
    """Let somebody in whose name and token belong together, or, without a name, out: by a cookie that no script can
    read and no other site can make a browser send."""
    message = await _message(request)
    if isinstance(message, Response):
        return message
    name, token, project = (str(message.get(part) or "") for part in ("annotator", "token", "project"))
    response = Response(status_code=204)
    facts: dict[str, Any] = {"secure": request.url.scheme == "https", "httponly": True, "samesite": "strict"}
    if not name:
        response.delete_cookie(entry.cookie(), **facts)
        return response
    try:
        visit = await run_in_threadpool(entry.admit, name, token, project or None)
    except UserError as error:
        return _refusal(403, entry.sentence(error))
    response.set_cookie(entry.cookie(), entry.sealed(visit.person.name, token), max_age=COOKIE_SECONDS, **facts)
    return response


async def act(request: Request) -> Response:
    """Do what a screen asks for and tell it what comes next; refused to people who may not come in."""
    message = await _message(request)
    if isinstance(message, Response):
        return message
    try:
        who = {name: str(message["who"][name]) for name in ("annotator", "project")}
        actions = message["actions"]
    except (TypeError, KeyError):
        return _refusal(400, "The message was malformed. Reload the page.")
    return await run_in_threadpool(_reply, entry.credentials(request.cookies), who, actions)


async def _message(request: Request) -> dict[str, Any] | Response:
    """The JSON object of a request, or why it is refused: a page of another site (a JSON body makes browsers ask first,
    and nobody answers them; an origin must be ours), a body that is too long or no JSON."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return _refusal(403, "This page belongs to another server.")
    if request.headers.get("content-type") != "application/json":
        return _refusal(415, "JSON is expected.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return _refusal(413, "That is too long for an answer.")
    try:
        message = json.loads(body)
    except ValueError:
        message = None
    return message if isinstance(message, dict) else _refusal(400, "The message was malformed. Reload the page.")


def _refusal(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def _reply(credentials: tuple[str, str], who: dict[str, str], actions: Any) -> Response:
    name, token = credentials
    if name != who["annotator"]:  # somebody else came in from another tab of this browser
        return _refusal(403, f"This browser labels as {name or 'nobody'} now. Reload the page.")
    try:
        visit = entry.admit(name, token, who["project"])
    except UserError as error:
        return _refusal(403, f"Not recorded: {error}.")
    try:
        acknowledged, notice = service.act(visit.store, visit.person.name, actions, 0)
        data = content(visit.store, visit.person.name, acknowledged, notice)
    except UserError as error:  # the disk, or a server behind it: the screen keeps its answers and comes again
        return _refusal(503, str(error))
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
        "empty": not queue and store.is_empty(),
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
    return found.shown(f"{side} video")
