"""A model card for adapters: what they were trained on, for what, how, and what it did to the metrics.

Written from what a run folder knows, so that it can be regenerated and never claims more than was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SETTINGS = ("learning_rate", "steps", "prompts_per_step", "group_size", "denoising_steps", "guidance", "clip_range")


_WAYS = {
    "HunyuanVideo15Transformer3DModel": "pipeline.transformer.load_lora_adapter(\n"
    '    FOLDER, weight_name="pytorch_lora_weights.safetensors", use_safetensors=True\n)',
    "LatteTransformer3DModel": "# diffusers loads no LoRA for Latte; after\n"
    "# soralign lora merge FOLDER --model BASE --out DIR\npipeline = DiffusionPipeline.from_pretrained(DIR)",
}
_SECOND = """pipeline.load_lora_weights(
    FOLDER, weight_name="pytorch_lora_weights_2.safetensors", load_into_transformer_2=True
)"""


def loading_lines(network: str, num_experts: int) -> list[str]:
    """How plain diffusers takes adapters for the class `network` of denoisers, of which the model may have two."""
    return [_WAYS.get(network, "pipeline.load_lora_weights(FOLDER)"), *([_SECOND] if num_experts > 1 else [])]


def model_card(
    description: dict[str, Any], step: int, comparison: dict[str, dict[str, Any]], loading: Sequence[str]
) -> str:
    """Markdown with the front matter of the Hugging Face hub.

    Args:
        description: config.yaml of the run folder. step: training step of the adapters.
        comparison: metric -> row of a compare.json, a = base and b = aligned; empty = not evaluated.
        loading: see `loading_lines`.
    """
    base = str(description.get("model", "?"))
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: diffusers",
        "tags: [lora, text-to-video, soralign]",
        "---",
        "",
    ]
    lines += [f"# LoRA for {base}", "", "| | |", "|---|---|"]
    rows = {
        "base model": base,
        "algorithm": description.get("algorithm", "?"),
        "reward": description.get("reward", "?"),
        "data": f"{description.get('num_prompts', '?')} prompts (sha256 {description.get('prompts_sha256', '?')[:12]})",
        "training step": step,
        "LoRA": f"rank {description.get('lora_rank', '?')}, alpha {description.get('lora_alpha', '?')}",
        "settings": ", ".join(f"{name} {description[name]}" for name in _SETTINGS if name in description),
        "seed": description.get("seed", "?"),
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "## Evaluation", ""]
    if comparison:
        lines += ["| metric | base | aligned | difference [95 %] | p | n |", "|---|---|---|---|---|---|"]
        lines += [_row(name, row) for name, row in comparison.items()]
    else:
        lines.append("Not evaluated. `soralign eval` both models, `soralign compare`, and export again with --compare.")
    lines += ["", "## Use", "", "```python", *loading, "```", ""]
    lines += [
        "Rank and alpha are in the file's metadata. With Soralign: `soralign generate --model BASE --lora FOLDER`.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any]) -> str:
    direction = row.get("higher_is_better")
    better = "" if direction is None else f" ({'higher' if direction else 'lower'} is better)"
    interval = f"{_number(row.get('difference'))} [{_number(row.get('low'))}, {_number(row.get('high'))}]"
    cells = [name + better, _number(row.get("a")), _number(row.get("b")), interval, _number(row.get("p")), row.get("n")]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"
