"""Runs one of the two apps: Streamlit as an ASGI application, with a route of ours for video files and one for answers.

Streamlit's own `st.video` reads files into memory and cannot keep two players in step, so clips go past it. The script
gets its arguments as any Streamlit script does, in `sys.argv`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from core import address
from dashboards import media

# Calm, high contrast, one accent. The accent is a blue that colour-blind readers tell from the orange of "worse".
THEME: dict[str, Any] = {
    "theme.font": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "theme.headingFont": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "theme.baseRadius": "10px",
    "theme.showWidgetBorder": True,
    "theme.headingFontSizes": ["1.75rem", "1.3rem", "1.1rem"],
    "theme.headingFontWeights": [650, 600, 600],
    "theme.light.primaryColor": "#1f6feb",
    "theme.light.backgroundColor": "#fbfbfa",
    "theme.light.secondaryBackgroundColor": "#f1f1ef",
    "theme.light.textColor": "#1c1d1f",
    "theme.light.borderColor": "#e0e0dc",
    "theme.dark.primaryColor": "#6aa9ff",
    "theme.dark.backgroundColor": "#141517",
    "theme.dark.secondaryBackgroundColor": "#1e2023",
    "theme.dark.textColor": "#ececea",
    "theme.dark.borderColor": "#34373c",
}
CONFIG: dict[str, Any] = THEME | {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 50,  # megabytes; only the labeling app's admin can upload, and only labels
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "logger.level": "warning",
    "runner.magicEnabled": False,  # rewriting the script to print stray values costs more than running it
    "runner.postScriptGC": False,  # a full collection after every run stops all threads for 80 ms
}
# Heavy imports of each app, done before the address is printed, so that the first page need not wait (pandas is
# Streamlit's, when it first shows a player). Not the pages themselves: Streamlit complains about caches that are made
# while it does not run yet.
WARM: dict[str, tuple[str, ...]] = {
    "label.py": ("pandas", "dashboards.export", "dashboards.runs", "dashboards.service", "core.preferences_quality"),
    "report.py": ("pandas", "dashboards.charts", "dashboards.export", "dashboards.runs", "dashboards.service"),
}


def serve(script: str, arguments: list[str], host: str, port: int | None) -> None:
    """Run a script of this folder until Ctrl-C; Streamlit prints the address.

    Args:
        port: None takes 8501 or the next free one, 0 any free one.
    Raises: UserError when the address cannot be used.
    """
    if port:
        address.listening(host, port).close()
    for module in WARM[script]:
        importlib.import_module(module)
    path = Path(__file__).with_name(script)
    routes = [Route(f"{media.ROUTE}/{{name}}", send_clip)]
    if script == "label.py":
        from dashboards.labeling import api

        routes += [Route(api.ROUTE, api.act, methods=["POST"]), Route(api.DOOR, api.enter, methods=["POST"])]
    app = st.App(path, routes=routes)
    sys.argv = [str(path), *arguments]
    where: dict[str, Any] = {"server.address": host, "server.port": 8501 if port is None else port}
    try:
        app.run(config=CONFIG | where)
    except KeyboardInterrupt:
        print()
    finally:
        media.LIBRARY.close()


def send_clip(request: Request) -> Response:
    """One clip, or the part of it that the Range header asks for."""
    path = media.LIBRARY.find(request.path_params["name"])
    if path is None or not path.is_file():
        return PlainTextResponse("no such clip; reload the page", status_code=404)
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=_TYPES.get(path.suffix.lower(), "video/mp4"), headers=headers)


_TYPES = {".webm": "video/webm", ".mkv": "video/x-matroska"}
