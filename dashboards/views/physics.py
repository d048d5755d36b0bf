"""What the physics reader saw: tracked paths drawn over the videos, worst first, with the probes' values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import streamlit as st

from dashboards import components, runs
from dashboards.views import common
from dashboards.views.common import figure
from eval.scene import Judged, read_tracks

PER_PAGE = 8
ORDERS = ("as made", "least plausible first", "most plausible first")
QUALITY, PASSED = "physics_quality", "physics_pass_rate"


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Physics")
    experiment = common.choose([one for one in experiments if one.sets] or experiments)
    if not experiment.sets:
        common.empty("No videos yet: they appear here once a video set has been evaluated.")
        return
    names = list(experiment.sets)
    columns = st.columns([1.2, 1.6, 1.4, 2.4], vertical_alignment="bottom")
    name = columns[0].selectbox("Set", names, key="set", bind="query-params") or names[0]
    order = columns[1].selectbox("Order", ORDERS, key="order", bind="query-params")
    only = columns[2].selectbox("Show", ("all", "failing", "passing"), key="show", bind="query-params")
    search = columns[3].text_input("Prompt contains", key="search", bind="query-params")
    folder = experiment.sets[name if name in names else names[0]]
    samples, problems = common.samples(folder)
    tracks, wrong = _tracks(str(folder), runs.time_of(folder / "tracks.jsonl"))
    common.report_problems([*problems, *wrong])
    probes = sorted({key for sample in samples for key in sample.metrics if key.startswith("physics/")})
    if not samples or not (probes or tracks):
        common.empty("No physics was measured here: `soralign eval` with `--metrics physics` does.")
        return
    _passes(samples, probes, folder)
    chosen = [sample for sample in samples if (search or "").lower() in sample.prompt.lower()]
    if only != "all":
        wanted = 1.0 if only == "passing" else 0.0
        chosen = [sample for sample in chosen if sample.metrics.get(PASSED) == wanted]
    if order != ORDERS[0]:
        sign = 1 if order == ORDERS[1] else -1
        chosen = sorted(chosen, key=lambda sample: sign * sample.metrics.get(QUALITY, math.inf * sign))
    shown = common.page_of(chosen, PER_PAGE)
    st.caption(
        f"{len(chosen)} videos. Lines are the read paths, a ring the place in the frame that is shown; a gap is where "
        "an object was hidden, gone or torn. Space plays, comma and full stop step, T hides the paths."
    )
    components.gallery(
        key="physics", data={"cards": [_card(sample, tracks.get(sample.id), probes) for sample in shown]}
    )


@st.cache_data(max_entries=16, show_spinner=False)
def _tracks(folder: str, version: float) -> Any:
    return read_tracks(Path(folder))


def _passes(samples: list[Judged], probes: list[str], folder: Path) -> None:
    """How many pass, and between what the values of every probe lie."""
    entries, _ = runs.results(folder)  # what cannot be read is told on the overview
    judged = [sample.metrics[PASSED] for sample in samples if PASSED in sample.metrics]
    rows = []
    for probe in probes:
        values = sorted(sample.metrics[probe] for sample in samples if probe in sample.metrics)
        low, middle, high = (figure(values[int(part * (len(values) - 1))]) for part in (0.05, 0.5, 0.95))
        rows.append(
            {
                "probe": probe.partition("/")[2],
                "unit": entries.get(probe, {}).get("unit") or "–",
                "median": middle,
                "nine in ten lie in": f"{low} … {high}",
                "measured": f"{len(values)} of {len(samples)}",
            }
        )
    passed = f"{sum(judged):.0f} of {len(judged)} videos obey" if judged else "probes"
    with st.expander(f"Probes: {passed}"):
        common.table(rows)


def _card(sample: Judged, track: dict[str, Any] | None, probes: list[str]) -> dict[str, object]:
    verdict = {1.0: "passes", 0.0: "fails"}.get(sample.metrics.get(PASSED, -1.0), "not judged")
    outside = f"{sample.reasons[PASSED]} outside the band of truth" if PASSED in sample.reasons else ""
    facts = [f"quality {figure(sample.metrics.get(QUALITY))}", *([outside] if outside else [])]
    clip = common.clip(sample.path, verdict, " · ".join(facts))
    if track is not None and "error" not in clip:
        seen = ", ".join(f"{one.get('colour')} {one.get('shape') or 'object'}" for one in track["objects"])
        clip |= {"tracks": track, "alt": f"video of {seen or 'nothing that was read'} with the paths that were read"}
    values = [f"{name.partition('/')[2]} {figure(sample.metrics[name])}" for name in probes if name in sample.metrics]
    return {"prompt": sample.prompt, "clips": [clip], "facts": " · ".join(values)}
