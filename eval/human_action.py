"""VBench's human action: does a network that was taught Kinetics-400 see the action that the prompt names?

The network is UMT (Li et al. 2023): a transformer over the patches of 16 frames, each patch of one frame. That is what
transformers calls VideoMAE, with learned places, so the published file needs its tensors renamed and nothing more.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from core.video import IMAGENET_MEAN, IMAGENET_STD
from eval.backbones import network_of, resized, standardised_pixels
from eval.protocol import Array, Frames, Metric, Sample, Score, missing
from eval.vbench import HEAD, middles

if TYPE_CHECKING:
    import torch

NUM_FRAMES = 16
EPSILON = 1e-6  # of layer normalisation
SURE, NUM_GUESSES = 0.85, 5  # an action counts as seen among so many of the likeliest, from this probability on
ASKED = "person is "  # in VBench's prompts the action stands behind it
# Piece of a tensor's name in UMT's file -> in transformers' VideoMAE; "qkv" is three tensors there.
RENAMED = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "pos_embed": "videomae.embeddings.position_embeddings",
    "blocks.": "videomae.encoder.layer.",
    "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "head.": "classifier.",
}


@functools.cache
def actions() -> dict[str, int]:
    """Name of each action of Kinetics-400, in small letters -> its class."""
    from torchvision.models.video import R3D_18_Weights

    names = R3D_18_Weights.KINETICS400_V1.meta["categories"]
    return {name.lower(): number for number, name in enumerate(names)}


class UMT:
    """Probability of every action of Kinetics-400 in a clip, [1, 400], each for itself (they do not add up to one).

    Args:
        path: FILE or FILE#SHA256 of `l16_ptk710_ftk710_ftk400_f16_res224.pth`; other sizes of its layout work too.
    """

    name = "umt"
    min_frames = 1

    def __init__(self, path: str) -> None:
        self.model, self.sha256 = network_of(path, "UMT", _network, _tensors)
        self.side = self.model.config.image_size
        self.preprocessing = (
            f"{NUM_FRAMES} frames from the middles of equal parts, short side to {self.side * 8 // 7}, centre"
            f" {self.side}x{self.side}, bilinear, no antialias, ImageNet mean and deviation"
        )

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        larger = self.side * 8 // 7
        edge = (larger - self.side) // 2
        with torch.inference_mode():
            clip = resized(frames[middles(len(frames), NUM_FRAMES)], larger, crop=True)
            clip = clip[:, :, edge : edge + self.side, edge : edge + self.side]
            logits = self.model(standardised_pixels(clip, IMAGENET_MEAN, IMAGENET_STD)[None]).logits
        return logits.sigmoid().double().cpu().numpy()

    def encode_text(self, prompt: str) -> None:
        return None


def _tensors(file: dict[str, Any]) -> dict[str, Any]:
    """UMT's state dict under transformers' names."""
    state: dict[str, Any] = {}
    for name, tensor in file.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if name.endswith("attn.qkv.weight"):
            where = name.removesuffix("attn.qkv.weight")
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            state |= {f"{where}attention.attention.{part}.weight": rows for part, rows in parts}
        else:
            state[name] = tensor
    return state


def _network(state: dict[str, Any]) -> torch.nn.Module:
    """VideoMAE with a head, in the sizes of a state dict, with a learned place for every patch of every frame."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    dim, _, _, _, patch = state["videomae.embeddings.patch_embeddings.projection.weight"].shape
    places = state["videomae.embeddings.position_embeddings"]
    layers = "videomae.encoder.layer."
    config = VideoMAEConfig(
        image_size=patch * round((places.shape[1] / NUM_FRAMES) ** 0.5),
        patch_size=patch,
        num_frames=NUM_FRAMES,
        tubelet_size=1,
        hidden_size=dim,
        num_hidden_layers=1 + max(int(name.split(".")[3]) for name in state if name.startswith(layers)),
        num_attention_heads=dim // HEAD,
        intermediate_size=len(state[f"{layers}0.intermediate.dense.bias"]),
        num_labels=len(state["classifier.bias"]),
        layer_norm_eps=EPSILON,
        use_mean_pooling=True,
    )
    model = VideoMAEForVideoClassification(config)
    model.fc_norm.eps = EPSILON
    del model.videomae.embeddings.position_embeddings
    model.videomae.embeddings.register_buffer("position_embeddings", places.clone())
    return model


def seen(sample: Sample) -> Score:
    """1 if the action of "A person is ..." is among the likeliest and likely enough, else 0. Source: VBench."""
    if sample.features is None:
        return missing("no backbone")
    action = actions().get(sample.prompt.lower().rpartition(ASKED)[2])
    if action is None:
        return missing(f"the prompt does not end in '{ASKED}' and an action of Kinetics-400")
    chances = sample.features[0]
    likeliest = np.argsort(-chances, kind="stable")[:NUM_GUESSES]
    return Score(float(action in likeliest and round(chances[action], 4) >= SURE))


HUMAN_ACTION = Metric(
    name="vbench/human_action",
    version="1",
    unit="share of videos",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "prompt"),
    blind_spots="who does it, and where; actions that Kinetics-400 has not",
    per_video=seen,
    backbone="umt",
    failure=0.0,
    preprocessing=f"UMT's {NUM_GUESSES} likeliest actions of Kinetics-400, of probability {SURE} or more",
)
