"""The README's tree of the house is true: what it names exists, and no module of a room is forgotten."""

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ("core", "base_model", "reward", "align", "eval", "dashboards")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
MADE_LATER = {"docs/demo.png"}  # by the demo


def tree() -> dict[str, list[str]]:
    """Room ("" for the root) -> the names that the tree gives to it: what stands left of three or more spaces."""
    text = (HOUSE / "README.md").read_text(encoding="utf-8").split("## The house")[1].split("## Limits")[0]
    named: dict[str, list[str]] = {}
    room = ""
    for line in re.findall(r"^ {4}(.+)$", text, re.MULTILINE):
        names = re.split(r" {3,}", line.strip())[0].split()
        if not line.startswith(" "):
            room = names[0].rstrip("/") if names[0].endswith("/") else ""
            names = [] if room else names
        named.setdefault(room, []).extend(names)
    return named


def test_every_name_in_the_tree_exists() -> None:
    for room, names in tree().items():
        assert (HOUSE / room).is_dir()
        for name in names:
            assert list((HOUSE / room).glob(name.rstrip("/"))), f"README names {room}/{name}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_of_a_room_is_in_the_tree(room: str) -> None:
    named = [path for name in tree()[room] for path in (HOUSE / room).glob(name.rstrip("/"))]
    missing = [path.name for path in (HOUSE / room).glob("[a-z]*.py") if path not in named]
    assert not missing, f"README's tree of {room}/ lacks {missing}"


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = set(LINK.findall((HOUSE / "README.md").read_text(encoding="utf-8"))) - MADE_LATER
    assert targets and all((HOUSE / target).exists() for target in targets)
