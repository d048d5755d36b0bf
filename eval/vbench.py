"""VBench's dimensions of style and beauty: agreement with the prompt by ViCLIP, with a style by CLIP, LAION's ratings.

Human action has a file of its own; subject, background, flickering and dynamic degree are formulas over networks that
other metrics use too, in eval.temporal and eval.flow_warp. The rest of VBench's sixteen are left out; docs/metrics.md
says why, one by one.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.video import CLIP_MEAN, CLIP_STD
from eval import clip_sim
from eval.backbones import network_of, resized, standardised_pixels
from eval.image_backbones import OpenClip
from eval.protocol import Array, Frames, Metric, Sample, Score, missing

if TYPE_CHECKING:
    import torch

HEAD = 64  # channels of an attention head in every tower of ViCLIP
BEST = 10.0  # of LAION's scale
# What the prompts of VBench's appearance style end in: its list has them once more beside each prompt.
STYLES = (
    "Van Gogh style",
    "oil painting",
    "by Hokusai, in the style of Ukiyo",
    "black and white",
    "pixel art",
    "in cyberpunk style",
    "animated style",
    "watercolor painting",
    "surrealism style",
)


class ViCLIP:
    """One embedding of a whole clip and one of its prompt, both of length one (Wang et al. 2023, InternVid).

    Args:
        path: FILE or FILE#SHA256 of `ViClip-InternVid-10M-FLT.pth`; other sizes of its layout work too.
    """

    name = "viclip"
    min_frames = 1

    def __init__(self, path: str) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.model, self.sha256 = network_of(path, "ViCLIP", _towers, itemgetter("model"))
        vision, text = self.model["vision_encoder"], self.model["text_encoder"]
        self.side, self.num_frames = vision.image_size[0], vision.temporal_positional_embedding.shape[1]
        self.tokenizer = SimpleTokenizer(context_length=text.context_length)
        self.preprocessing = (
            f"{self.num_frames} frames from the middles of equal parts, short side to {self.side}, centre, bicubic, no"
            " antialias"
        )

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        chosen = frames[middles(len(frames), self.num_frames)]
        with torch.inference_mode():
            clip = standardised_pixels(resized(chosen, self.side, crop=True, mode="bicubic"), CLIP_MEAN, CLIP_STD)
            found = _seen(self.model["vision_encoder"], clip).double().cpu().numpy()
        return found[None] / np.linalg.norm(found)

    def encode_text(self, prompt: str) -> Array:
        import torch

        text = self.model["text_encoder"]
        with torch.inference_mode():
            found = text(self.tokenizer([prompt]).to(text.text_projection.device))[0].double().cpu().numpy()
        return found / np.linalg.norm(found)


def middles(num_frames: int, count: int) -> NDArray[np.int_]:
    """Places of `count` frames, each in the middle of an equal part of the video; a short one repeats its last."""
    ends = np.linspace(0, num_frames, min(count, num_frames) + 1).astype(int)
    places = (ends[:-1] + ends[1:] - 1) // 2
    return np.append(places, [places[-1]] * (count - len(places))).astype(int)


def _towers(state: dict[str, Any]) -> torch.nn.Module:
    """ViCLIP's two towers in the sizes of a state dict: CLIP's, with a place in time added to every patch."""
    from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
    from torch import nn, ones, zeros

    width, _, _, _, patch = state["vision_encoder.conv1.weight"].shape
    grid = round((len(state["vision_encoder.positional_embedding"]) - 1) ** 0.5)
    dim = state["vision_encoder.proj"].shape[1]
    vision = VisionTransformer(
        grid * patch,
        patch,
        width,
        _depth(state, "vision_encoder"),
        width // HEAD,
        4.0,
        output_dim=dim,
        act_layer=QuickGELU,
    )
    vision.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
    time = state["vision_encoder.temporal_positional_embedding"].shape
    vision.temporal_positional_embedding = nn.Parameter(zeros(time))
    words, inner = state["text_encoder.token_embedding.weight"].shape
    length = len(state["text_encoder.positional_embedding"])
    text = TextTransformer(
        length, words, inner, inner // HEAD, _depth(state, "text_encoder"), output_dim=dim, act_layer=QuickGELU
    )
    both = nn.ModuleDict({"vision_encoder": vision, "text_encoder": text})
    both.register_parameter("temp", nn.Parameter(ones(())))
    return both


def _depth(state: dict[str, Any], tower: str) -> int:
    start = f"{tower}.transformer.resblocks."
    return 1 + max(int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start))


def _seen(vision: Any, clip: torch.Tensor) -> torch.Tensor:
    """Embedding [dim] of frames [time, 3, side, side]: every patch of every frame attends to every other."""
    import torch

    patches = vision.conv1(clip.transpose(0, 1)[None])[0].flatten(2).permute(1, 2, 0)  # [time, patch, width]
    patches = patches + vision.positional_embedding[1:] + vision.temporal_positional_embedding[0][:, None]
    first = vision.class_embedding + vision.positional_embedding[0]
    tokens = vision.transformer(vision.ln_pre(torch.cat([first[None], patches.flatten(0, 1)])[None]))
    return torch.as_tensor(vision.ln_post(tokens[0, 0]) @ vision.proj)


class Aesthetic:
    """LAION's first, linear aesthetic predictor on a CLIP: a rating of about 1 to 10 a frame, [time, 1].

    Args:
        path: MODEL:FILE:HEAD, #SHA256 behind both files; VBench's are
            "ViT-L-14-quickgelu:/weights/ViT-L-14.pt:/weights/sa_0_4_vit_l_14_linear.pth".
    """

    min_frames = 1

    def __init__(self, path: str) -> None:
        from torch import nn

        tower, _, head = path.rpartition(":")
        if ":" not in tower:
            raise UserError(f"--weights laion={path}: give MODEL:FILE:HEAD, the CLIP and the linear layer upon it")
        self.clip = OpenClip(tower)
        self.head, digest = network_of(
            head, "LAION's linear head", lambda state: nn.Linear(state["weight"].shape[1], 1)
        )
        self.sha256 = hashlib.sha256(f"{self.clip.sha256}{digest}".encode()).hexdigest()
        self.name = f"laion on {self.clip.name}"
        self.side = self.clip.model.visual.image_size[0]
        self.preprocessing = f"short side to {self.side}, centre, bicubic, no antialias"

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        with torch.inference_mode():
            clip = standardised_pixels(resized(frames, self.side, crop=True, mode="bicubic"), CLIP_MEAN, CLIP_STD)
            return self.head(self.clip.model.encode_image(clip, normalize=True)).double().cpu().numpy()

    def encode_text(self, prompt: str) -> None:
        return None


def aesthetic_quality(sample: Sample) -> Score:
    """Mean rating of the frames / 10. Source: VBench, aesthetic quality."""
    return missing("no backbone") if sample.features is None else Score(float(sample.features.mean()) / BEST)


def style(prompt: str) -> str:
    """The style that a prompt asks for at its end, empty where it is none of VBench's."""
    return next((one for one in STYLES if prompt.endswith(one)), "")


def appearance_style(sample: Sample) -> Score:
    """Mean cosine of the frames and the style. Source: VBench, appearance style."""
    if sample.features is None:
        return missing("no backbone")
    if sample.text is None:
        return missing(f"the prompt ends in none of VBench's styles ({', '.join(STYLES)})")
    return Score(float((sample.features @ sample.text).mean()))


OVERALL = Metric(
    name="vbench/overall_consistency",
    version="1",
    unit="cosine",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("frames", "prompt"),
    blind_spots="fine order of events: eight frames stand for the video",
    per_video=clip_sim.score,
    backbone="viclip",
    preprocessing="ViCLIP, one embedding of the clip, cosine with the prompt",
)
AESTHETIC = Metric(
    name="vbench/aesthetic_quality",
    version="1",
    unit="rating / 10",
    range=(float("-inf"), float("inf")),
    higher_is_better=True,
    needs=("frames",),
    blind_spots="prompt, motion, order of frames; taste of the photographs it was taught on",
    per_video=aesthetic_quality,
    backbone="laion",
    preprocessing="LAION's linear predictor on CLIP per frame, mean over frames",
)
STYLE = Metric(
    name="vbench/appearance_style",
    version="1",
    unit="cosine",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("frames", "prompt"),
    blind_spots="all of the prompt but its style; order of frames",
    per_video=appearance_style,
    backbone="open_clip",
    words=style,
    preprocessing="CLIP per frame and the style that ends the prompt, mean over frames",
)
