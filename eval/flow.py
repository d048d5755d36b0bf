"""Optical flow: OpenCV's DIS without weights, or RAFT by path. Displacements in px of the frame as it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from core.errors import UserError
from core.registry import resolve
from core.video import to_uint8
from eval.backbones import device, network_of
from eval.protocol import Array, FlowEstimator, Frames

ESTIMATORS: dict[str, str] = {"dis": "eval.flow:Dis", "raft": "eval.flow:Raft"}
OWN = ("dis",)
SMALLEST = {"dis": 32, "raft": 128}  # px; a smaller frame is enlarged first
RAFT_UPDATES = 20  # as VBench and EvalCrafter run it


class Dis:
    """Dense inverse search (Kroeger et al. 2016), grey, at full resolution."""

    name = "dis"
    sha256 = f"opencv {cv2.__version__}"

    def __init__(self, path: str | None = None) -> None:
        self.search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.search.setFinestScale(0)

    def flow(self, first: Frames, second: Frames) -> Array:
        grey = [cv2.cvtColor(to_uint8(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        factor = _enlarging(first, SMALLEST["dis"])
        if factor > 1:
            grey = [cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR) for image in grey]
        found: Any = self.search.calc(grey[0], grey[1], None)  # type: ignore[call-overload]
        return _reduced(np.asarray(found, dtype=np.float64), factor)


class Raft:
    """RAFT (Teed & Deng 2020) as torchvision builds it.

    Args:
        path: FILE or FILE#SHA256 of a state dict of torchvision's `raft_large`.
    """

    name = "raft"

    def __init__(self, path: str) -> None:
        from torchvision.models.optical_flow import raft_large

        self.model, self.sha256 = network_of(path, "raft_large", lambda _: raft_large(weights=None))

    def flow(self, first: Frames, second: Frames) -> Array:
        import torch
        from torch.nn.functional import interpolate, pad

        factor = _enlarging(first, SMALLEST["raft"])
        pair = torch.from_numpy(np.stack([first, second])).to(device())
        if factor > 1:
            pair = interpolate(pair, scale_factor=factor, mode="bilinear", align_corners=False)
        height, width = pair.shape[2:]
        pair = pad(pair, (0, -width % 8, 0, -height % 8), mode="replicate") * 2 - 1
        with torch.inference_mode():
            found = self.model(pair[:1], pair[1:], num_flow_updates=RAFT_UPDATES)[-1]
        return _reduced(found[0, :, :height, :width].permute(1, 2, 0).double().cpu().numpy(), factor)


def load(name: str, weights: Mapping[str, str] | None = None) -> FlowEstimator:
    """An estimator by its name in ESTIMATORS.

    Raises: UserError when its file is not given, missing, of another sha256 or of another layout.
    """
    path = (weights or {}).get(name)
    if path is None and name not in OWN:
        raise UserError(f"no weights; give --weights {name}=PATH")
    return resolve(ESTIMATORS, name, "flow estimator")(path)


def _enlarging(frame: Frames, smallest: int) -> int:
    """Whole factor that makes the short side at least `smallest` px."""
    return -(-smallest // min(frame.shape[1:]))


def _reduced(flow: Array, factor: int) -> Array:
    """Flow of an enlarged frame [height x factor, width x factor, 2] as that of the frame itself."""
    if factor == 1:
        return flow
    height, width = flow.shape[0] // factor, flow.shape[1] // factor
    return flow.reshape(height, factor, width, factor, 2).mean(axis=(1, 3)) / factor


def pull(image: Frames, flow: Array) -> Frames:
    """image [channels, height, width] read at every pixel's place + flow [height, width, 2], bilinear, edges held."""
    height, width = flow.shape[:2]
    x, y = (part.astype(np.float32) for part in _ends(flow))
    layers = np.ascontiguousarray(np.moveaxis(image, 0, -1), dtype=np.float32)
    warped = np.asarray(cv2.remap(layers, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)
    return np.moveaxis(warped.reshape(height, width, -1), -1, 0)


def agreeing(forward: Array, backward: Array) -> Array:
    """bool [height, width]: following the flow there and back ends near the start, so the pixel is not occluded.

    Source: Sundaram et al. 2010, eq. 5, with its constants. Pixels that leave the frame do not agree.
    """
    back = np.moveaxis(pull(np.moveaxis(backward, -1, 0).astype(np.float32), forward), 0, -1)
    gap = ((forward + back) ** 2).sum(axis=-1)
    size = (forward**2).sum(axis=-1) + (back**2).sum(axis=-1)
    height, width = forward.shape[:2]
    x, y = _ends(forward)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (gap <= 0.01 * size + 0.5) & inside


def _ends(flow: Array) -> tuple[Array, Array]:
    """Where every pixel of flow [height, width, 2] goes, (x, y) each [height, width]."""
    rows, columns = np.ogrid[: flow.shape[0], : flow.shape[1]]
    return columns + flow[..., 0], rows + flow[..., 1]
