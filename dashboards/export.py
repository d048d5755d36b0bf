"""What is on a page as a file: the comparison of every run as CSV, JSON, parquet, and Markdown for a model card."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
from pyarrow import parquet

from eval import verdict
from eval.verdict import Row

COLUMNS = (
    "run",
    "metric",
    "base",
    "aligned",
    "difference",
    "low",
    "high",
    "p",
    "corrected_p",
    "n",
    "unit",
    "higher_is_better",
    "verdict",
    "reason",
)
KINDS = {"CSV": "csv", "JSON": "json", "Parquet": "parquet", "Markdown": "md"}


def records(compared: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """One record per run and metric, in the order of COLUMNS."""
    return [
        {"run": run, "metric": row.name} | {name: getattr(row, name) for name in COLUMNS[2:]}
        for run, rows in compared.items()
        for row in rows
    ]


def encode(table: Sequence[Mapping[str, Any]], kind: str) -> bytes:
    """Records, one at least, as a file of this kind, a key of KINDS except Markdown.

    Not by way of pandas, which makes 288.0 of a count where another one is not known.
    """
    if kind == "JSON":
        return (json.dumps(list(table), indent=1, ensure_ascii=False) + "\n").encode()
    if kind == "CSV":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue().encode()
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(table)), buffer)
    return buffer.getvalue()


def markdown(compared: Mapping[str, Sequence[Row]]) -> str:
    """A section per run for a model card: the verdict in a sentence, then the table."""
    lines = []
    for run, rows in compared.items():
        lines += [f"## {run}", "", f"**{verdict.headline(rows)}**", ""]
        lines += [f"- {tile.label}: {tile.value} ({tile.detail})" for tile in verdict.tiles(rows)]
        lines += ["", *verdict.markdown_table(rows), ""]
    return "\n".join(lines)
