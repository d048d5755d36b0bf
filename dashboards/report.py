"""The report app: `soralign dashboard RUNS`. Reads run folders and shows them; writes nothing into them.

Run by Streamlit with the folders in `sys.argv`. A page is a function of the experiments found; the table of pages is
`dashboards.PAGES`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import streamlit as st

from core.registry import resolve
from dashboards import PAGES, runs

STYLE = Path(__file__).with_name("components") / "page.css"
Page = Callable[[list[runs.Experiment]], None]


def _page(name: str) -> Callable[[], None]:
    show = cast(Page, resolve(PAGES, name, "page"))

    def page() -> None:
        st.html(STYLE)
        experiments = runs.find([Path(folder) for folder in sys.argv[1:]])
        if not experiments:
            st.title("Nothing to show yet")
            st.write("No run was found in these folders. This page fills by itself once one appears.")
            st.code("\n".join(sys.argv[1:]), language=None)
            st.write("Make one with `soralign demo --out DIR`, or give another folder to `soralign dashboard`.")
            return
        show(experiments)

    page.__name__ = name
    return page


st.set_page_config(page_title="Soralign", page_icon="🎬", layout="wide")
pages = [
    st.Page(_page(name), title=name.capitalize(), url_path=name, default=index == 0) for index, name in enumerate(PAGES)
]
st.navigation(pages, position="top").run()
