"""The labeling app: `soralign label --store FILE`. One screen, one key per pair; behind it, two more pages.

Run by Streamlit with the store's address and the door (see `labeling/entry.py`) in `sys.argv`; every rerun starts from
the store, nothing is remembered here but who somebody is.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboards import components
from dashboards.labeling import admin, api, entry, screen, you

STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 3.2rem 1.5rem 1rem; }
[data-testid="stHeader"] { background: transparent; }
</style>"""

st.set_page_config(page_title="Label videos", page_icon="⚖️", layout="wide")
st.html(STYLE)


def pages(visit: entry.Visit) -> list[Any]:
    """What this person may open."""
    found = [
        st.Page(lambda: screen.show(visit), title="Label", url_path="label", default=True),
        st.Page(lambda: you.show(visit), title="You", url_path="you"),
    ]
    if visit.person.may("reviewer"):
        found.append(st.Page(lambda: admin.show(visit), title="Project", url_path="project"))
    return found


def door(annotator: str = "", refused: str = "") -> None:
    """The page before all others; on the others it only waits for an invitation."""
    data = {"annotator": annotator, "refused": refused, "leaves": False, "route": api.DOOR}
    components.door(key="door", data=data)


visitor = entry.visit()
if isinstance(visitor, entry.Visit):
    st.navigation(pages(visitor), position="top").run()
    door(visitor.person.name)
else:
    refused = visitor
    doors = [
        st.Page(lambda: door(refused=refused), title="Label videos", url_path=path, default=path == "label")
        for path in ("label", "you", "project")  # whoever comes in goes on to the page that they asked for
    ]
    st.navigation(doors, position="hidden").run()
