"""`soralign eval`, `compare`, `leaderboard`, `report`, `best-of-n` and `suite`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.cli import option, parse, required
from core.errors import UserError
from core.preferences_types import WHICH_PROJECT
from core.registry import unknown
from eval.result import RESULTS, TIE_BAND
from eval.svg import plain_number

if TYPE_CHECKING:
    from eval.run import Results

MOST_NAMED = 10  # videos that failed, on the screen


@dataclass(frozen=True)
class EvalOptions:
    """Measure a video set; every number with its interval. Writes results.json, samples.jsonl, features.npz and
    tracks.jsonl. The same command again resumes; `accelerate launch -m eval ...` shares the work among processes."""

    videoset: str = required("folder of videos with prompts")
    out: str | None = option(None, "folder to write (default: the video set's own)")
    reference: str | None = option(None, "video set of real videos, for fvd, mmd, controls")
    metrics: str = option(
        "all",
        "comma-separated names or groups, e.g. physics,clip_sim,fvd; reward[NAME] for a reward; or all:"
        " everything whose weights are given",
    )
    backbone: str = option("sandbox", "sandbox, or a folder with CLIP weights")
    weights: str | None = option(
        None,
        "comma-separated NAME=PATH or NAME=PATH#SHA256 of i3d, videomae, open_clip (MODEL:PATH), dino,"
        " mobilenet_v2, raft, viclip, laion (MODEL:PATH:HEAD), umt",
    )
    cache: str | None = option(None, "folder of features (default: OUT/features)")
    suite: str | None = option(None, "shipped prompt suite or file: its groups get means of their own")
    controls: int = option(32, "reference videos to spoil as controls; 0 for none")
    seed: int = option(0, "of the resampling")
    strict: bool = option(False, "exit with 2 when a video failed or a metric did not run, after writing")


@dataclass(frozen=True)
class CompareOptions:
    """Compare two evaluated sets, paired by prompt and seed; b is the hopeful one. Writes compare.json."""

    a: str = required("folder with results.json of the first or base set")
    b: str = required("folder with results.json of the second or aligned set")
    out: str | None = option(None, "file to write (default: compare.json beside B)")
    win_by: str | None = option(None, "comma-separated metrics, or reward[NAME], whose win rates are added")
    seed: int = option(0, "of the resampling")


@dataclass(frozen=True)
class LeaderboardOptions:
    """Rank models: evaluated sets of the same prompts and seeds by one metric, or the votes in a preference store.
    Writes leaderboard.json."""

    sets: list[str] = option([], "folders with results.json, one a model")
    by: str = option("gold", "per-video metric or reward[NAME] that both were measured with")
    tie_band: float = option(TIE_BAND, "differences up to this are ties, in the metric's unit")
    store: str | None = option(None, "preference store: votes instead of a metric")
    project: str | None = option(None, WHICH_PROJECT)
    aspect: str = option("overall", "which votes of the store")
    out: str | None = option(None, "file to write (default: leaderboard.json here)")
    seed: int = option(0, "of the resampling")


@dataclass(frozen=True)
class BestOfNOptions:
    """What picking the best of N seeds by one metric does to another. Writes best_of_n.json into the set's folder."""

    videoset: str = required("folder with results.json; several seeds a prompt")
    proxy: str = option("clip_sim[sandbox]", "metric that picks, or reward[NAME]")
    gold: str = option("gold", "metric that judges the pick")
    seed: int = option(0, "of the resampling")


@dataclass(frozen=True)
class ReportOptions:
    """One page to open or mail, videos inside. Of one `soralign demo` folder: did alignment help? Of several folders or
    evaluated sets: ranking, win rates, metrics, the same scenes side by side."""

    folders: list[str] = option([], "demo folders, or evaluated video sets")
    out: str | None = option(
        None, "file to write: .html, or .md for a model card (default: report.html in the folder, or here)"
    )


@dataclass(frozen=True)
class SuiteOptions:
    """Show a prompt suite, or write its prompts to a file for `soralign generate --prompts`."""

    name: str = required("attributes, counting, motion, physics, composition, unseen, all, or a file")
    groups: str | None = option(None, "comma-separated groups; all if not given")
    out: str | None = option(None, "text file to write, one prompt a line")


def leaderboard(argv: list[str]) -> None:
    """Rank models."""
    from core.preferences import existing
    from eval import leaderboard as board
    from eval import result

    options = parse(LeaderboardOptions, argv, "soralign leaderboard", ("sets",))
    if (len(options.sets) < 2) == (options.store is None):
        raise UserError("give two or more evaluated sets, or --store FILE with votes on videos of several models")
    if options.tie_band < 0:
        raise UserError(f"--tie-band must be 0 or more, seen {options.tie_band:g}")
    if options.store is not None:
        votes = existing(options.store, options.project)
        matches, about = board.by_votes(votes, options.aspect), f"votes on {options.aspect}"
    else:
        matches, about = board.by_metric(board.named(options.sets), options.by, options.tie_band), options.by
    content = board.table(matches, about, options.seed)
    result.write_json(Path(options.out or board.LEADERBOARD), content)
    print("\n".join(board.summary(content)))


def report(argv: list[str]) -> None:
    """Write the report of a demo folder or of several sets."""
    from core.files import atomic_write
    from eval import report as one
    from eval import report_sets as several

    options = parse(ReportOptions, argv, "soralign report", ("folders",))
    if not options.folders:
        raise UserError("no folder given; expected what `soralign demo --out` wrote, or evaluated video sets")
    folder = Path(options.folders[0])
    is_one = len(options.folders) == 1 and not (folder / "results.json").is_file()
    path = Path(options.out) if options.out else folder / "report.html" if is_one else Path("report.html")
    if path.suffix not in (".html", ".md"):
        raise UserError(f"--out {path}: expected a name that ends in .html or .md")
    if path.suffix == ".md":
        text = one.markdown(folder) if is_one else several.markdown(several.find(options.folders))
        atomic_write(path, text)
    elif is_one:
        one.write(folder, path)
    else:
        several.write(several.find(options.folders), path)
    print(path)


def best_of_n(argv: list[str]) -> None:
    """Best-of-N curve of a set."""
    from eval import best_of_n as curve

    options = parse(BestOfNOptions, argv, "soralign best-of-n", ("videoset",))
    print("\n".join(curve.summary(curve.measure(options.videoset, options.proxy, options.gold, options.seed))))


def suite(argv: list[str]) -> None:
    """Show or write a prompt suite."""
    from core.files import atomic_write
    from eval import suite as suites

    options = parse(SuiteOptions, argv, "soralign suite", ("name",))
    prompts = suites.read(options.name)
    known = {name for prompt in prompts for name in prompt.groups}
    wanted = {name.strip() for name in (options.groups or "").split(",") if name.strip()}
    for name in wanted - known:
        raise unknown(name, known, "group")
    texts = dict.fromkeys(prompt.text for prompt in prompts if not wanted or wanted & set(prompt.groups))
    if options.out is None:
        print("\n".join(texts))
        return
    atomic_write(options.out, "".join(f"{text}\n" for text in texts))
    print(f"{len(texts)} prompts in {options.out}")


def evaluate(argv: list[str]) -> None:
    """Measure a video set."""
    options = parse(EvalOptions, argv, "soralign eval", ("videoset",))
    if options.controls < 0:
        raise UserError(f"--controls must be 0 or more, seen {options.controls}")
    for word, folder in (("--out", options.out), ("--cache", options.cache)):
        if folder is not None and Path(folder).is_file():
            raise UserError(f"{word} {folder!r} is a file; give a folder, which is made where there is none")
    names = [name.strip() for name in _split(options.metrics) if name.strip()]
    if not names:
        raise UserError("--metrics names no metric; give names separated by commas, or all")
    weights = _weights(options.weights)
    from eval import run, suite

    results = run.evaluate(
        options.videoset,
        names,
        options.out,
        options.reference,
        cache=options.cache,
        backbone=options.backbone,
        weights=weights,
        groups=suite.groups(suite.read(options.suite)) if options.suite else None,
        num_controls=options.controls,
        seed=options.seed,
    )
    if os.environ.get("RANK", "0") == "0":
        show(results, options.out or options.videoset)
    if options.strict:
        idle = [name for name, entry in results.metrics.items() if entry["value"] is None]
        if idle or results.failures:
            failed = [failure["id"] for failure in results.failures]
            told = [f"{len(failed)} of the videos failed ({', '.join(failed[:5])})"] if failed else []
            told += [f"no value for {', '.join(idle)}"] if idle else []
            where = options.out or options.videoset
            raise UserError(f"--strict: {' and '.join(told)}; results are written in {where}")


def compare(argv: list[str]) -> None:
    """Compare two evaluated sets."""
    options = parse(CompareOptions, argv, "soralign compare", ("a", "b"))
    from eval import compare as comparison

    names = [name.strip() for name in _split(options.win_by or "") if name.strip()]
    compared = comparison.compare(options.a, options.b, options.out, options.seed, names)
    comparison.show(compared, _labels(Path(options.a), Path(options.b)))


def _weights(text: str | None) -> dict[str, str]:
    """NAME=PATH,... as a mapping.

    Raises: UserError for a name that no metric uses, or without a path.
    """
    from eval.backbones import BACKBONES, OWN
    from eval.flow import ESTIMATORS
    from eval.flow import OWN as OWN_ESTIMATORS

    known = {name.partition(",")[0] for name in BACKBONES} | set(ESTIMATORS)
    known -= {*OWN, *OWN_ESTIMATORS}
    given: dict[str, str] = {}
    for part in _split(text or ""):
        name, _, path = part.strip().partition("=")
        if not name:
            continue
        if name not in known:
            raise unknown(name, known, "backbone")
        if not path:
            raise UserError(f"--weights {name} names no file; give {name}=PATH")
        given[name] = path
    return given


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


def show(results: Results, folder: str) -> None:
    """Print value, interval and n as a table; under it why metrics have no value, what fools them, and what failed."""
    table = Table()
    table.add_column("metric", overflow="fold")
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes: dict[str, list[str]] = {}
    for name, entry in results.metrics.items():
        interval, flagged = entry["interval"], entry.get("flagged")
        table.add_row(
            escape(name),
            "-" if entry["value"] is None else plain_number(entry["value"], 4),
            "-" if interval is None else " .. ".join(plain_number(end, 4) for end in interval),
            str(entry["n"]),
        )
        said = [entry["reason"], entry.get("warning"), flagged and f"ranks above real: {', '.join(flagged)}"]
        for note in filter(None, said):
            notes.setdefault(note, []).append(name)
    Console().print(table)
    lines = [f"{', '.join(names)}: {note}" for note, names in notes.items()]
    lines += [f"warning: {warning}" for warning in results.warnings]
    lines += [f"failed: {failure['error']}" for failure in results.failures[:MOST_NAMED]]
    if len(results.failures) > MOST_NAMED:
        lines.append(f"failed: {len(results.failures) - MOST_NAMED} more, named in {Path(folder) / RESULTS}")
    print("\n".join(lines))
