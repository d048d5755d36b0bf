"""What an evaluation leaves on disk, and reading it back. Torch-free: the report and the dashboard read it too.

results.json    per metric: value, interval, n, fine print, or the reason why it did not run; and the provenance
samples.jsonl   one line a video: its value of every metric, null with a reason where there is none
features.npz    one vector a video and those of the reference, for tests between two sets
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import files
from core.errors import UserError

RESULTS, SAMPLES, FEATURES = "results.json", "samples.jsonl", "features.npz"


@dataclass(frozen=True)
class SetFeatures:
    """ids [n], vectors [n, dim]; reference [m, dim] or None."""

    ids: tuple[str, ...]
    vectors: NDArray[np.float64]
    reference: NDArray[np.float64] | None


def finite(value: float | None) -> float | None:
    """JSON has no NaN: what is not finite becomes None."""
    return value if value is not None and math.isfinite(value) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all; NaN is refused."""
    files.atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    files.atomic_write(folder / SAMPLES, lines)


def write_features(folder: Path, features: SetFeatures) -> None:
    arrays: dict[str, Any] = {"ids": np.array(features.ids), "vectors": features.vectors}
    if features.reference is not None:
        arrays["reference"] = features.reference
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
    """The lines of samples.jsonl.

    Raises: UserError when the file is missing or damaged.
    """
    path = Path(folder) / SAMPLES
    if not path.is_file():
        raise UserError(f"{path} is missing; run `soralign eval {folder} --out {folder}` first")
    return files.read_lines(path)


def read_features(folder: Path | str) -> SetFeatures | None:
    """The set features, or None where none were kept or the file is damaged."""
    try:
        with np.load(Path(folder) / FEATURES, allow_pickle=False) as arrays:
            reference = arrays["reference"] if "reference" in arrays else None
            return SetFeatures(tuple(str(name) for name in arrays["ids"]), arrays["vectors"], reference)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
