"""`soralign eval` and `soralign compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.cli import parse
from core.errors import UserError


@dataclass
class EvalOptions:
    """Measure a video set; every number with its interval. Writes results.json, samples.jsonl and features.npz.
    The same command again resumes."""

    videoset: str = field(metadata={"help": "folder of videos with prompts"})
    out: str | None = field(default=None, metadata={"help": "folder to write (default: the video set's own)"})
    reference: str | None = field(default=None, metadata={"help": "video set of real videos, for fvd, mmd, controls"})
    metrics: str = field(
        default="all", metadata={"help": "comma-separated names or groups, e.g. physics,clip_sim,fvd; or all"}
    )
    backbone: str = field(default="sandbox", metadata={"help": "sandbox, or a folder with CLIP weights"})
    cache: str | None = field(default=None, metadata={"help": "folder of features (default: OUT/features)"})
    controls: int = field(default=32, metadata={"help": "reference videos to spoil as controls; 0 for none"})
    seed: int = field(default=0, metadata={"help": "of the resampling"})
    strict: bool = field(
        default=False, metadata={"help": "exit with 2 when a video failed or a metric did not run, after writing"}
    )


@dataclass
class CompareOptions:
    """Compare two evaluated sets, paired by prompt and seed; b is the hopeful one. Writes compare.json."""

    a: str = field(metadata={"help": "folder with results.json of the first or base set"})
    b: str = field(metadata={"help": "folder with results.json of the second or aligned set"})
    out: str | None = field(default=None, metadata={"help": "file to write (default: compare.json beside B)"})
    seed: int = field(default=0, metadata={"help": "of the resampling"})


def evaluate(argv: list[str]) -> None:
    """Measure a video set."""
    options = parse(EvalOptions, argv, "soralign eval", ("videoset",))
    if options.controls < 0:
        raise UserError(f"--controls must be 0 or more, seen {options.controls}")
    names = [name.strip() for name in _split(options.metrics) if name.strip()]
    if not names:
        raise UserError("--metrics names no metric; give names separated by commas, or all")
    from eval import run, select

    select.metrics(names)  # a wrong name fails before anything is read
    results = run.evaluate(
        options.videoset,
        names,
        options.out,
        options.reference,
        cache=options.cache,
        backbone=options.backbone,
        num_controls=options.controls,
        seed=options.seed,
    )
    show(results.metrics, results.warnings)
    if options.strict:
        idle = [name for name, entry in results.metrics.items() if entry["value"] is None]
        if idle or results.failures:
            failed = ", ".join(failure["id"] for failure in results.failures[:5])
            raise UserError(
                f"--strict: {len(results.failures)} videos failed ({failed or 'none'}) and {len(idle)} metrics did not"
                f" run ({', '.join(idle) or 'none'}); results are written in {options.out or options.videoset}"
            )


def compare(argv: list[str]) -> None:
    """Compare two evaluated sets."""
    options = parse(CompareOptions, argv, "soralign compare", ("a", "b"))
    from eval import compare as comparison

    compared = comparison.compare(options.a, options.b, options.out, options.seed)
    comparison.show(compared, _labels(Path(options.a), Path(options.b)))


def _labels(a: Path, b: Path) -> tuple[str, str]:
    names = a.resolve().name, b.resolve().name
    return names if names[0] != names[1] else ("a", "b")


def _split(text: str) -> list[str]:
    """At commas outside brackets: fvd[sandbox,dct] is one name."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def show(metrics: dict[str, dict[str, Any]], warnings: list[str]) -> None:
    """Print the results as a table: value, interval, n, and what a control fooled."""
    console = Console()
    table = Table()
    table.add_column("metric", no_wrap=True)
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for name, entry in metrics.items():
        interval, flagged = entry["interval"], entry.get("flagged")
        note = entry["reason"] or entry.get("warning") or ""
        if flagged:
            note = f"{note}; " * bool(note) + f"ranks above real: {', '.join(flagged)}"
        table.add_row(
            name.replace("[", r"\["),
            "-" if entry["value"] is None else f"{entry['value']:.4f}",
            "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}",
            str(entry["n"]),
            note.replace("[", r"\["),
        )
    console.print(table)
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False)
