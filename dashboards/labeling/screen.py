"""The screen on which pairs are judged. The drawing is a component (components/label.js), which brings its answers to
`api.py`: a rerun of the whole script for each of them would cost forty times as much."""

from __future__ import annotations

import streamlit as st

from core.errors import UserError
from dashboards.components import label_screen
from dashboards.labeling import api
from dashboards.labeling.entry import Visit
from dashboards.views.common import plain


def show(visit: Visit) -> None:
    """Draw it, with the pairs that this annotator holds now."""
    try:
        data = api.content(visit.store, visit.person.name)
    except UserError as error:
        st.error(plain(f"Nothing can be labeled now. {error}"))
        st.caption("What was acknowledged is safe. Reload the page to go on.")
        return
    who = {"annotator": visit.person.name, "project": visit.store.project}
    label_screen(key="screen", data=data | {"route": api.ROUTE, "who": who})
