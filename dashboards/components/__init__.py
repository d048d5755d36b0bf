"""What is more than Streamlit widgets: two screens around one synchronised player (player.js), and the labeling door.

Plain JavaScript and CSS beside this file, joined as text: no build step, nothing fetched from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st


def _joined(*names: str) -> str:
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


# Registered once per process: Streamlit warns about a name that is registered again on every rerun.
label_screen = st.components.v2.component(
    "soralign_label", js=_joined("player.js", "label.js"), css=_joined("player.css", "label.css")
)
gallery = st.components.v2.component(
    "soralign_gallery", js=_joined("player.js", "gallery.js"), css=_joined("player.css", "gallery.css")
)
door = st.components.v2.component("soralign_door", js=_joined("door.js"), css=_joined("door.css"))
