"""VideoAlign's VideoReward: visual quality, motion quality and text alignment by Qwen2-VL-2B with LoRA.

Its checkpoint is a folder with model_config.json and a step folder holding either LoRA and the other trained weights or
all weights. Their names are of an older transformers; LoRA is added into the weights while loading. The question that
the model was trained with is part of it and is read from template.txt beside the weights (docs/reward.md says how to
write that file); without the authors' own words the scores mean nothing. Source: arXiv 2501.13918.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from core.errors import UserError, first_line
from reward.frame_reward import state_of
from reward.vlm import Reading, Scorer, VlmReward

ASPECTS = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{aspect}_reward|>" for aspect in ASPECTS)
# Names of the weights: theirs -> those of transformers 5's model without its language head.
RENAMED = (
    (r"^(base_model\.model\.)+", ""),
    (r"\.(original_module|modules_to_save\.default|base_layer)\b", ""),
    (r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1"),
    (r"^visual\.", "model.visual."),
)


def video_align(weights: str = "KwaiVGI/VideoReward", base: str | None = None) -> VlmReward:
    """VideoReward; `total` is the sum of the three normalised scores.

    Args:
        weights: folder of the checkpoint, or a hub id. base: the Qwen2-VL to start from; None takes the checkpoint's.
    Raises: UserError for missing files or weights of another layout.
    """
    folder = _folder(weights)
    try:
        config = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
        start, lora = base or config["model_config"]["model_name_or_path"], config["peft_lora_config"]
        seen, norm = config["data_config"], config["inference_config"]
        mean = torch.tensor([float(norm[f"{aspect}_mean"]) for aspect in ASPECTS])
        deviation = torch.tensor([float(norm[f"{aspect}_std"]) for aspect in ASPECTS])
        max_pixels = int(seen.get("max_frame_pixels") or 448 * 448)
        scale = float(lora["lora_alpha"]) / float(lora["lora_r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model_config.json'} is missing or not VideoAlign's ({error})") from None
    template = folder / "template.txt"
    if not template.is_file():
        raise UserError(f"{template} is missing: it holds VideoAlign's question; docs/reward.md says how to write it")
    # A count that is a float, as in some of their tables, is still a count.
    reading = Reading(TOKENS, template.read_text(encoding="utf-8"), int(seen.get("num_frames") or 12), max_pixels)
    scorer = Scorer(start, reading)
    fill(scorer, _weights(folder), scale, folder)
    return VlmReward("video-align", scorer, ASPECTS, mean, deviation, torch.ones(len(ASPECTS)))


def fill(scorer: Scorer, state: dict[str, Tensor], scale: float, source: Path) -> None:
    """Put trained weights into the scorer: whole ones in place of its own, LoRA on top of them.

    Args: scale: alpha / rank. Raises: UserError when a weight has no place or the head is missing.
    """
    named = {_renamed(name): value for name, value in state.items()}
    places = {f"model.{name}": value for name, value in scorer.model.named_parameters()}
    places["rm_head.weight"] = scorer.head.weight
    whole = {name: value for name, value in named.items() if ".lora_" not in name and name != "lm_head.weight"}
    lost = [name for name in whole if name not in places]
    if lost or "rm_head.weight" not in whole:
        raise UserError(f"{source} is of another layout: {lost[0] if lost else 'rm_head.weight'} is out of place")
    with torch.no_grad():
        for name, value in whole.items():
            target, rows = places[name], min(len(places[name]), len(value))
            if target.shape[1:] != value.shape[1:] or (rows < len(value) and "embed_tokens" not in name):
                raise UserError(f"{source}: {name} has shape {tuple(value.shape)}, expected {tuple(target.shape)}")
            target[:rows] = value[:rows]  # the vocabulary may have been padded differently
        for name, down in named.items():
            found = re.fullmatch(r"(.+)\.lora_A(\.default)?\.weight", name)
            if found is None:
                continue
            up, target_name = named[name.replace("lora_A", "lora_B")], f"{found[1]}.weight"
            if target_name not in places:
                raise UserError(f"{source} is of another layout: {target_name} has LoRA but no place")
            places[target_name] += (scale * up.float() @ down.float()).to(places[target_name].dtype)


def _renamed(name: str) -> str:
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


def _folder(weights: str) -> Path:
    if Path(weights).is_dir():
        return Path(weights)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(weights))
    except Exception as error:  # offline, unknown id, gated: the hub library has a class for each
        raise UserError(f"VideoAlign weights {weights!r} cannot be had: {first_line(error)}") from None


def _weights(folder: Path) -> dict[str, Tensor]:
    """All trained weights of the last step folder, or of the folder itself."""
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    where = steps[-1] if steps else folder
    names = ("model.safetensors", "model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth")
    found = [where / name for name in names if (where / name).is_file()]
    if not found:
        raise UserError(f"{where} holds none of {', '.join(names)}")
    state: dict[str, Tensor] = {}
    for path in found:
        state |= state_of(path)
    return state
