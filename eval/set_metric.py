"""Metrics of a whole set: a distance between the vectors of its videos and those of real ones. Torch-free.

One distance on two kinds of vectors is two metrics that may not be compared, so the kind stands in the brackets.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.features import CLIP, DCT, EIGHT_FRAMES, PREPROCESSING, standardised
from eval.protocol import Distance, Metric, Pool


@dataclass(frozen=True)
class Vectors:
    """What videos are compared by: `protocol` is the part of a metric's name in brackets.

    Args:
        backbone: name in eval.backbones.BACKBONES.
        sees: what these vectors tell of a video, and what hardly.
        is_standardised: whether every dimension is divided by its standard deviation in the reference.
    """

    protocol: str
    backbone: str
    pool: Pool
    preprocessing: str
    sees: str
    is_standardised: bool = False

    @property
    def unit(self) -> str:
        """Of a squared distance between two vectors."""
        return "squared standard deviations of the reference" if self.is_standardised else "squared feature units"


_I3D = "first 16 frames, I3D logits"
_CONTENT = "sees content more than motion"
_FRAMES = "frames are compared one by one: order and motion are invisible"
SANDBOX = Vectors(
    "sandbox,dct", "sandbox", DCT, PREPROCESSING, "sees what the sandbox CLIP sees, content more than motion", True
)
I3D = Vectors("i3d,16f,224,bilinear", "i3d", CLIP, f"{_I3D}, stretched to 224x224, no antialias", _CONTENT)
I3D_STYLEGAN_V = Vectors(
    "i3d,16f,stylegan-v",
    "i3d,own",
    CLIP,
    f"{_I3D}, resized by the detector, else stretched to 224x224, no antialias",
    _CONTENT,
)
I3D_VIDEOGPT = Vectors(
    "i3d,16f,videogpt", "i3d,centre", CLIP, f"{_I3D}, short side to 224, centre, no antialias", _CONTENT
)
VIDEOMAE = Vectors(
    "videomae,16f,224,bilinear",
    "videomae",
    CLIP,
    "first 16 frames, mean of VideoMAE's last tokens, stretched to 224x224, no antialias",
    "sees what VideoMAE sees, motion more than content",
)
FRAMES = {
    name: Vectors(f"{name},8f", name, EIGHT_FRAMES, "8 frames a video", _FRAMES)
    for name in ("sandbox", "open_clip", "mobilenet_v2")
}


def set_metric(
    name: str,
    distance: Distance,
    vectors: Vectors,
    blind_spots: str,
    *,
    unit: str | None = None,
    range: tuple[float, float] = (0.0, float("inf")),
    higher_is_better: bool = False,
    details: str = "",
) -> Metric:
    """A distance (or share) on one kind of vectors.

    Args:
        unit: None for that of a squared distance.
        details: of the computation, beside the preprocessing; what differs here is not compared.
    """
    return Metric(
        name=f"{name}[{vectors.protocol}]",
        version="1",
        unit=unit or vectors.unit,
        range=range,
        higher_is_better=higher_is_better,
        needs=("frames", "reference"),
        blind_spots=f"{blind_spots}; {vectors.sees}",
        per_set=standardised(distance) if vectors.is_standardised else distance,
        pool=vectors.pool,
        backbone=vectors.backbone,
        preprocessing=f"{vectors.preprocessing}; {details}" if details else vectors.preprocessing,
    )
