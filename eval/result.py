"""What an evaluation leaves on disk, and reading it back. Torch-free: the report and the dashboard read it too.

results.json    per metric: value, interval, n, fine print, or the reason why it did not run; and the provenance
samples.jsonl   one line a video: its value of every metric, null with a reason where there is none
features.npz    the vectors of the videos and of the reference, for tests between two sets
tracks.jsonl    where the reader saw the objects of every video, for drawing
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import files
from core.errors import UserError

JUDGE = "gold"  # the metric whose word on a single video counts first, where it was measured
TIE_BAND = 0.02  # of gold utility, whose range is [0, 1]: the band in which the simulated annotators call a tie too
SIGNIFICANT = 0.05  # p-values below it
RESULTS, SAMPLES, FEATURES, TRACKS = "results.json", "samples.jsonl", "features.npz", "tracks.jsonl"


@dataclass(frozen=True)
class SetFeatures:
    """ids [n] of the videos that the vectors [n, dim] are of, several rows a video or one; reference [m, dim] or
    None."""

    ids: tuple[str, ...]
    vectors: NDArray[np.float64]
    reference: NDArray[np.float64] | None

    @property
    def num_videos(self) -> int:
        return len(set(self.ids))

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """The rows of every video."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.ids):
            rows.setdefault(name, []).append(row)
        return rows


def known_first(metrics: Iterable[str]) -> list[str]:
    """Names of metrics: the judge, then whole metrics, then their parts, each by name."""
    return sorted(metrics, key=lambda name: (name != JUDGE, "/" in name, name))


def finite(value: Any) -> float | None:
    """A finite number, or None for NaN, which JSON has not, and for anything else that a JSON file may hold."""
    try:
        number = float(value) if isinstance(value, int | float | np.number) else math.nan
    except OverflowError:  # of an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def as_dict(value: Any) -> dict[str, Any]:
    """An object of a JSON file, empty for anything else that may stand in its place."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list of a JSON file, empty for anything else that may stand in its place."""
    return value if isinstance(value, list) else []


def bounds(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The interval of a metric's entry in results.json, (None, None) where there is none."""
    ends = [finite(end) for end in as_list(entry.get("interval"))]
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else (None, None)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all; NaN is refused."""
    files.atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    files.atomic_write(folder / SAMPLES, lines)


def write_features(folder: Path, kinds: Mapping[str, SetFeatures]) -> None:
    """Args: kinds: eval.protocol.Metric.kind -> the vectors that metrics of this kind compare."""
    arrays: dict[str, Any] = {}
    for kind, features in kinds.items():
        arrays |= {f"{kind}/ids": np.array(features.ids), f"{kind}/vectors": features.vectors}
        if features.reference is not None:
            arrays[f"{kind}/reference"] = features.reference
    with files.replacing(folder / FEATURES) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def read_results(folder: Path | str) -> dict[str, Any]:
    """results.json of an evaluated set.

    Raises: UserError when it is missing or damaged.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise UserError(f"{path} is missing; run `soralign eval {folder} --out {folder}` first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); run the evaluation again") from None
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise UserError(f"{path}: no 'metrics' in it; run the evaluation again")
    return content


def read_samples(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, each with its id, prompt and seed, as far as there is one.

    Raises: UserError when the file is missing or damaged.
    """
    path = Path(folder) / SAMPLES
    if not path.is_file():
        raise UserError(f"{path} is missing; run `soralign eval {folder} --out {folder}` first")
    rows = files.read_lines(path)
    for number, row in enumerate(rows, start=1):
        named = isinstance(row.get("id"), str) and isinstance(row.get("prompt"), str)
        if not named or not isinstance(row.get("seed"), int | None):
            raise UserError(f"{path}: entry {number} has no id, prompt and seed of a video; run the evaluation again")
    return rows


def read_values(folder: Path | str, metric: str) -> list[tuple[str, int | None, float | None]]:
    """(prompt, seed, value of one metric) of every line of samples.jsonl.

    Arrow skips what is not asked for, which takes a quarter of the time of reading whole lines. Where it objects (a
    half-written last line, a number as text) or a prompt lacks, the lines are read one by one, which copes or says why.

    Raises: UserError as `read_samples`.
    """
    import pyarrow
    from pyarrow import json as arrow

    schema = pyarrow.schema({"prompt": pyarrow.string(), "seed": pyarrow.int64(), metric: pyarrow.float64()})
    wanted = arrow.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = arrow.read_json(Path(folder) / SAMPLES, parse_options=wanted)
    except (OSError, pyarrow.ArrowException):
        table = None
    if table is None or table["prompt"].null_count:
        return [(row["prompt"], row.get("seed"), finite(row.get(metric))) for row in read_samples(folder)]
    return list(zip(*(table[name].to_pylist() for name in schema.names), strict=True))


def read_features(folder: Path | str) -> dict[str, SetFeatures]:
    """Metric.kind -> vectors; empty where none were kept or the file is damaged."""
    try:
        with np.load(Path(folder) / FEATURES, allow_pickle=False) as arrays:
            kinds = [name.removesuffix("/ids") for name in arrays.files if name.endswith("/ids")]
            return {
                kind: SetFeatures(
                    tuple(str(name) for name in arrays[f"{kind}/ids"]),
                    arrays[f"{kind}/vectors"],
                    arrays[f"{kind}/reference"] if f"{kind}/reference" in arrays else None,
                )
                for kind in kinds
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
