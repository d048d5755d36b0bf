"""What is more than Streamlit widgets: two screens around one synchronised player (player.js), drawings, and the door.

Plain JavaScript and CSS beside this file, joined as text: no build step, nothing fetched from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from eval import plot

HERE = Path(__file__).parent
EVAL = Path(plot.__file__).parent  # the reports there draw by the same script and style


def _joined(*names: str | Path) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


# Registered once per process: Streamlit warns about a name that is registered again on every rerun.
label_screen = st.components.v2.component(
    "soralign_label", js=_joined("player.js", "label.js"), css=_joined("player.css", "label.css")
)
gallery = st.components.v2.component(
    "soralign_gallery", js=_joined("player.js", "gallery.js"), css=_joined("player.css", "gallery.css")
)
charts = st.components.v2.component(
    "soralign_charts", js=_joined(EVAL / "plot.js", "charts.js"), css=_joined(EVAL / "plot.css", "charts.css")
)
door = st.components.v2.component("soralign_door", js=_joined("door.js"), css=_joined("door.css"))
