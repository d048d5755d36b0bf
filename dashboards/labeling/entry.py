"""The door: who somebody is, and whether they may come in.

Name and token stand in the address, so that a reload, a bookmark or a link from the admin leads back to the same pair.
On one's own machine a name is enough (the door is open); where others can reach the server every name needs its token.
Whoever started the server is admin by the key that it printed.
"""

from __future__ import annotations

import functools
import hmac
import json
import sys
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
    """A person in a project of the store, with the token that let them in."""

    store: Store
    person: Person
    token: str = ""


@functools.cache
def open_store(address: str, folder: str) -> Store:
    """One store for all sessions of this process."""
    return Store(address, folder=folder)


def door() -> Door:
    """The door as `dashboards/commands.py` set it; open for a script that is run by itself."""
    return Door(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else Door()


def visit() -> Visit | None:
    """Who is here, or None when the door must be shown. A refusal is kept for it."""
    for name in ("annotator", "token", "project"):
        if name in st.query_params:
            st.session_state[name] = st.query_params[name]
        elif name in st.session_state:  # another page of the app: the menu drops what stood in the address
            st.query_params[name] = st.session_state[name]
    name = st.session_state.get("annotator", "")
    if not name:
        return None
    try:
        return admit(name, st.session_state.get("token", ""), st.session_state.get("project"))
    except UserError as error:
        st.session_state["refused"] = str(error)
        for part in ("annotator", "token", "project"):
            st.session_state.pop(part, None)
            st.query_params.pop(part, None)
        return None


def admit(name: str, token: str, project: str | None) -> Visit:
    """Let somebody into a project, the store's first if none is named.

    Raises: UserError when there is no such project, or name and token do not belong together.
    """
    store = open_store(sys.argv[1], door().folder)
    store = store.of_project(project or store.project)  # with its rules as they are now
    return Visit(store, _person(store, name, token), token)


def _person(store: Store, name: str, token: str) -> Person:
    key = door().admin_key
    if key is not None and name == ADMIN and hmac.compare_digest(key.encode(), token.encode()):
        return Person(ADMIN, "admin", True, 0.0)
    person = preferences_people.enter(store, name, token, open_to_names=door().open_to_names)
    if person.name == ADMIN and not person.has_token:
        raise UserError(f"the name {ADMIN!r} belongs to whoever started the server; choose another")
    return person


def ask() -> None:
    """The page before all others."""
    from dashboards.pages.common import plain  # its caches may be made only while Streamlit runs; `api` is read before

    _, middle, _ = st.columns([1, 1.4, 1])
    with middle, st.form("door"):
        st.title("Which video is better?")
        st.write(
            "You will see two videos made for the same text. Pick the better one with the arrow keys; "
            "there are no wrong answers, and every one can be undone."
        )
        name = st.text_input("Your name", max_chars=preferences_people.MAX_NAME_LENGTH, placeholder="Ada")
        token = st.text_input("Your token, if you were given one", type="password", autocomplete="off")
        if st.form_submit_button("Start", type="primary", width="stretch"):
            try:
                st.query_params["annotator"] = preferences_people.check_name(name)
            except UserError as error:
                st.error(plain(str(error)[0].upper() + str(error)[1:]))
            else:
                if token:
                    st.query_params["token"] = token
                st.rerun()
        refused = st.session_state.pop("refused", None)
        if refused:
            st.error(plain(refused[0].upper() + refused[1:] + "."))
        st.caption("Votes are stored under this name. Come back with the same name to go on where you stopped.")
