"""One self-contained report.html from a demo folder: the verdict first, then the videos, then every number.

A page to mail: no network, no fonts, no libraries, videos embedded. It is a pure function of the folder, so the same
folder gives the same bytes. Half a folder gives half a report that says what is missing. No torch.

    verdict -> same-seed pairs -> metrics with intervals -> training curves -> reward model -> where it comes from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from core import files
from core.videoset import VideoItem
from eval import gallery, page, plot, svg, verdict
from eval.curves import is_telling, ordered
from eval.folder import Demo, plain
from eval.result import JUDGE, as_dict, finite
from eval.verdict import Row

TRAINING_PROMPTS_SHOWN = 2
EFFECT_LIMITS = (0.5, 1.0, 2.0)  # half the width of the axis; the first that holds all intervals
DRAWS = {
    "random": ("At random", "drawn with seed {seed} from all {count} pairs, whatever they look like"),
    "wins": ("Biggest wins", "the pairs in which the judge prefers aligned the most"),
    "losses": ("Biggest losses", "the pairs in which the judge prefers base the most"),
}


def write(demo_dir: Path | str, path: Path | None = None) -> Path:
    """Write the report of a folder as `soralign demo` leaves it, or as far as it got.

    Args:
        path: file to write; None for report.html in the folder.
    Returns: the path of the report.
    Raises: UserError when the folder holds nothing to report on.
    """
    folder = Path(demo_dir)
    path = path or folder / "report.html"
    files.atomic_write(path, _render(Demo.read(folder)))
    return path


def markdown(demo_dir: Path | str) -> str:
    """The report as a short Markdown text, for a model card: verdict, table, provenance. No videos.

    Raises: UserError when the folder holds nothing to report on.
    """
    demo = Demo.read(Path(demo_dir))
    lines = [f"**{verdict.headline(demo.rows)}**", ""]
    lines += [f"- {tile.label}: {tile.value} ({tile.detail})" for tile in verdict.tiles(demo.rows)]
    lines += ["", *verdict.markdown_table(demo.rows)]
    lines += ["", *(f"{name}: {value}  " for name, value in demo.provenance)]
    return "\n".join(lines) + "\n"


def _render(demo: Demo) -> str:
    reel = page.Reel(demo.tracks, lambda scene: _preferred(scene.gap(JUDGE), demo.tie_band))
    chosen = gallery.choose(demo.pairs)
    draws = [
        reel.draw(title, rule.format(seed=gallery.SEED, count=len(demo.pairs)), chosen[name])
        for name, (title, rule) in DRAWS.items()
        if chosen[name]
    ]
    notes = [*demo.notes, *reel.said()]
    if demo.pairs and all(pair.gap(JUDGE) is None for pair in demo.pairs):
        notes.append("The judge's score of single videos is missing: pairs are shown at random only.")
    furthest = max((abs(end) for row in demo.rows for end in row.effect or ()), default=0.0)
    limit = next((limit for limit in EFFECT_LIMITS if furthest <= limit), EFFECT_LIMITS[-1])
    curves = _curves(demo.metrics)
    return page.render(
        "report.html",
        demo=demo,
        headline=verdict.headline(demo.rows),
        tiles=verdict.tiles(demo.rows),
        draws=draws,
        wins=_wins(demo),
        main_rows=[row for row in demo.rows if not row.is_detail],
        details=[row for row in demo.rows if row.is_detail],
        num_tests=sum(row.p is not None for row in demo.rows),
        effects={row.name: _effect(row, limit) for row in demo.rows},
        effect_axis=svg.effect_axis(limit),
        curves=[one for one in curves if is_telling(one[0])],
        more_curves=[one for one in curves if not is_telling(one[0])],
        steps=_steps(demo),
        growth=_growth(demo.samples),
        card=_card(demo.reward),
        num_held_out=as_dict(demo.reward.get("num_pairs")).get("held_out"),
        choices=_choices(demo.labels),
        metric_details=_metric_details(demo),
        plain=plain,
        notes=notes,
    )


def _preferred(gain: float | None, tie_band: float) -> str:
    if gain is None:
        return "not judged"
    if abs(gain) <= tie_band:
        return "a tie"
    return "judge prefers aligned" if gain > 0 else "judge prefers base"


def _wins(demo: Demo) -> dict[str, Any] | None:
    """How many pairs aligned won, tied and lost, and the chart of all of them."""
    gains = [gain for pair in demo.pairs if (gain := pair.gap(JUDGE)) is not None]
    if not gains:
        return None
    won, lost = sum(gain > demo.tie_band for gain in gains), sum(gain < -demo.tie_band for gain in gains)
    words = f"aligned is ahead in {won} pairs, equal in {len(gains) - won - lost}, behind in {lost}"
    chart = svg.all_pairs(gains, demo.tie_band, f"judge's score, aligned minus base: {words}")
    return {"words": words, "count": len(gains), "chart": chart}


def _effect(row: Row, limit: float) -> Markup:
    if row.effect is None:
        return Markup("")
    value, low, high = row.effect
    label = f"effect {svg.number(value, 2)}, interval {svg.number(low, 2)} to {svg.number(high, 2)}: {row.verdict}"
    return svg.effect(value, low, high, limit, row.tone, label)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """(logged name, chart), rewards first, then held-out judges, then signs of health; times are left out."""
    names = {name for row in metrics for name in row if "/" in name and not name.startswith("time/")}
    charts = [
        (name, plot.curve([(float(row["step"]), finite(row.get(name))) for row in metrics], name))
        for name in ordered(names)
    ]
    return [(name, chart) for name, chart in charts if chart]


def _steps(demo: Demo) -> str:
    """What the training was, in a line."""
    if not demo.metrics:
        return ""
    last = demo.metrics[-1]
    parts = [f"{int(last['step'])} training steps"]
    if finite(last.get("samples")) is not None:
        parts.append(f"{int(last['samples']):,} videos generated".replace(",", "\u2009"))
    seconds = sum(finite(row.get(name)) or 0.0 for row in demo.metrics for name in row if name.startswith("time/"))
    if seconds:
        parts.append(f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds")
    return ", ".join([str(demo.config.get("algorithm", "")).strip() or "alignment", *parts])


def _growth(samples: Mapping[int, Sequence[VideoItem]]) -> list[dict[str, Any]]:
    """The first sample clips through training: one film a prompt, the steps side by side."""
    if len(samples) < 2:
        return []
    shown = []
    for index in range(min(TRAINING_PROMPTS_SHOWN, *(len(items) for items in samples.values()))):
        items = [items[index] for items in samples.values()]
        film = gallery.film([item.video for item in items])
        if not film.problem:
            shown.append({"prompt": items[0].prompt, "steps": [f"step {step}" for step in samples], "film": film})
    return shown


def _card(report: Mapping[str, Any]) -> Markup | None:
    """Accuracy of the reward model per aspect, the overall one first, beside what needs no model."""
    told = as_dict(report.get("aspects"))
    rows = [one for name, row in told.items() if (one := _accuracy(name, as_dict(row))) is not None]
    rows.sort(key=lambda row: row[0] != "overall")
    return svg.accuracies(rows, "accuracy of the reward model on held-out votes") if rows else None


def _accuracy(aspect: str, row: Mapping[str, Any]) -> svg.Accuracy | None:
    """A line of the card from an aspect of report.json; None where nothing was measured."""
    entry = row.get("accuracy")
    entry = entry if isinstance(entry, dict) else {"value": entry}
    value, low, high = (finite(entry.get(name)) for name in ("value", "low", "high"))
    majority, random = finite(row.get("majority")), finite(row.get("random"))
    return None if value is None else (aspect.replace("_", " "), value, low, high, majority, random)


def _choices(labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per aspect the shares of ties and the agreement of annotators."""
    table = []
    agreement = labels.get("agreement", {})
    for aspect, counts in labels.get("choices", {}).items():
        total = sum(counts.values())
        if total:
            tied = counts.get("tie", 0) / total
            row = {"aspect": aspect.replace("_", " "), "votes": total, "ties": f"{100 * tied:.0f}\u2009%"}
            table.append(row | {"agreement": svg.number(finite(agreement.get(aspect)), 2)})
    return table


def _metric_details(demo: Demo) -> list[dict[str, Any]]:
    """The fine print of every metric, for the table of provenance."""
    table = []
    for row in demo.rows:
        about: dict[str, Any] = {}
        for name in ("base", "aligned"):
            about |= as_dict(as_dict(demo.results[name].get("metrics")).get(row.name))
        backbone = " ".join(filter(None, [plain(about.get("backbone")), str(about.get("backbone_sha256") or "")[:12]]))
        words = [backbone, about.get("preprocessing"), about.get("blind_spots") and f"Blind to: {about['blind_spots']}"]
        fine = {"name": row.name, "version": plain(about.get("version")), "method": row.method, "n": row.n or ""}
        table.append(fine | {"words": ". ".join(plain(word) for word in words if word)})
    return table
