"""The door: who somebody is, and whether they may come in.

Name and token live in a cookie that only the server reads (`api.enter` sets it), so that a reload, a bookmark or a
restart of the server leads back to the same pair, and no address, history or log holds a token. On one's own machine a
name is enough (the door is open); where others can reach the server every name needs its token. Whoever started the
server is admin by the key that it printed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from core import preferences_people
from core.errors import UserError
from core.preferences import Store
from core.preferences_people import Person

ADMIN = "admin"


@dataclass(frozen=True)
class Door:
    """How this server lets people in. `admin_key` makes the annotator called "admin" the admin while it runs."""

    open_to_names: bool = True
    admin_key: str | None = None
    folder: str = "."


@dataclass(frozen=True)
class Visit:
    """A person in a project of the store."""

    store: Store
    person: Person


@functools.cache
def open_store(address: str, folder: str) -> Store:
    """One store for all sessions of this process."""
    return Store(address, folder=folder)


def door() -> Door:
    """The door as `dashboards/commands.py` set it; open for a script that is run by itself."""
    return Door(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else Door()


def visit() -> Visit | str:
    """Who is here, or what the door has to say to them: nothing to newcomers, else why they may not come in."""
    if "project" in st.query_params:
        st.session_state["project"] = st.query_params["project"]
    elif "project" in st.session_state:  # another page of the app: the menu drops what stood in the address
        st.query_params["project"] = st.session_state["project"]
    name, token = credentials(st.context.cookies)
    if not name:
        return ""
    try:
        return admit(name, token, st.session_state.get("project"))
    except UserError as error:
        st.session_state.pop("project", None)
        st.query_params.pop("project", None)
        return sentence(error)


def cookie() -> str:
    """The cookie's name, one for each store: browsers share cookies between the ports of a machine."""
    return f"soralign-{hashlib.sha256(sys.argv[1].encode()).hexdigest()[:12]}"


def sealed(name: str, token: str) -> str:
    """The cookie's value for somebody who may come in. It says who they are, so that a server may be restarted."""
    return base64.urlsafe_b64encode(json.dumps([name, token]).encode()).decode().rstrip("=")


def credentials(cookies: Mapping[str, str]) -> tuple[str, str]:
    """Name and token of a browser; empty where it has none, or something else under that name."""
    value = cookies.get(cookie(), "")
    try:
        name, token = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except (ValueError, TypeError):
        return "", ""
    return str(name), str(token)


def admit(name: str, token: str, project: str | None) -> Visit:
    """Let somebody into a project, the store's first if none is named.

    Raises: UserError when there is no such project, or name and token do not belong together.
    """
    store = open_store(sys.argv[1], door().folder)
    store = store.of_project(project or store.project)  # with its rules as they are now
    return Visit(store, _person(store, name, token))


def _person(store: Store, name: str, token: str) -> Person:
    key = door().admin_key
    if key is not None and name == ADMIN and hmac.compare_digest(key.encode(), token.encode()):
        return Person(ADMIN, "admin", True, 0.0)
    person = preferences_people.enter(store, name, token, open_to_names=door().open_to_names)
    if person.name == ADMIN and not person.has_token:
        raise UserError(f"the name {ADMIN!r} belongs to whoever started the server; choose another")
    return person


def sentence(error: UserError) -> str:
    """An error as a line on a page."""
    text = str(error)
    return f"{text[0].upper()}{text[1:]}."
