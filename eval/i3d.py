"""I3D (Carreira & Zisserman 2017, RGB, Kinetics-400): the features that FVD was defined on, the 400 logits of a clip.

Both files in use are read: the PyTorch state dict whose keys are `Mixed_3b.b1b.conv3d.weight` and the like, and the
TorchScript detector of StyleGAN-V. The network is a function of the state dict: channels are what the tensors say.
Logits before the softmax, averaged over time - not the pooled layer in front of them.
"""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

from core.errors import UserError
from core.video import to_uint8
from eval.backbones import checked, device, resized
from eval.protocol import Array, Frames

NUM_FRAMES = 16
SIZE = 224
EPSILON = 1e-3  # of batch normalisation
# In order: an inception block, or a pooling (kernel, stride) before it. The stem is written out in `logits`.
POOLS = {"Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
State = dict[str, Any]


def logits(state: State, clips: Any) -> Any:
    """Logits [batch, classes] of clips [batch, 3, time >= 9, 224, 224] in [-1, 1], mean over time."""
    from torch.nn.functional import avg_pool3d

    x = _unit(state, "Conv3d_1a_7x7", clips, stride=2)
    x = _pool(x, (1, 3, 3), (1, 2, 2))
    x = _unit(state, "Conv3d_2c_3x3", _unit(state, "Conv3d_2b_1x1", x))
    x = _pool(x, (1, 3, 3), (1, 2, 2))
    for block in (f"Mixed_{name}" for name in BLOCKS):
        if block in POOLS:
            x = _pool(x, *POOLS[block])
        x = _inception(state, block, x)
    x = avg_pool3d(x, (2, 7, 7), stride=1)
    return _unit(state, "logits", x, is_last=True).mean(dim=(2, 3, 4))


def _inception(state: State, name: str, x: Any) -> Any:
    """Four paths side by side: 1x1; 1x1 then 3x3, twice; pooling then 1x1."""
    import torch

    paths = [_unit(state, f"{name}.b0", x)]
    paths += [_unit(state, f"{name}.{b}b", _unit(state, f"{name}.{b}a", x)) for b in ("b1", "b2")]
    paths += [_unit(state, f"{name}.b3b", _pool(x, (3, 3, 3), (1, 1, 1)))]
    return torch.cat(paths, dim=1)


def _unit(state: State, name: str, x: Any, stride: int = 1, is_last: bool = False) -> Any:
    """Convolution, batch normalisation, ReLU; the last one has a bias in their place."""
    from torch.nn.functional import batch_norm, conv3d

    weight = state[f"{name}.conv3d.weight"]
    x = _padded(x, weight.shape[2:], (stride,) * 3)
    if is_last:
        return conv3d(x, weight, state[f"{name}.conv3d.bias"])
    scale, shift, mean, variance = (
        state[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return batch_norm(conv3d(x, weight, stride=stride), mean, variance, scale, shift, eps=EPSILON).relu_()


def _pool(x: Any, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    from torch.nn.functional import max_pool3d

    return max_pool3d(_padded(x, kernel, stride), kernel, stride)


def _padded(x: Any, kernel: Any, stride: tuple[int, ...]) -> Any:
    """Zeros as TensorFlow's SAME puts them: the odd one goes behind."""
    from torch.nn.functional import pad

    margins: list[int] = []
    for length, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (length % s or s), 0)
        margins = [total // 2, total - total // 2, *margins]
    return pad(x, margins)


def expected_keys() -> set[str]:
    """Names of the tensors that `logits` reads."""
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    units += [f"Mixed_{block}.{path}" for block in BLOCKS for path in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]
    parts = ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return {f"{unit}.{part}" for unit in units for part in parts} | {"logits.conv3d.weight", "logits.conv3d.bias"}


class I3D:
    """The first 16 frames of a clip -> logits [1, 400].

    Args:
        path: FILE or FILE#SHA256, a state dict or a TorchScript detector.
        preparation: "stretched" to 224x224, "centre" of the short side's 224, or the detector's "own".
    """

    min_frames = NUM_FRAMES

    def __init__(self, path: str, preparation: str) -> None:
        import torch

        file, self.sha256 = checked(path)
        self.name = "i3d" if preparation == "stretched" else f"i3d,{preparation}"
        self.is_script = _is_script(file)
        # Given a state dict, StyleGAN-V's own resizing is the stretching it does itself.
        self.preparation = "stretched" if preparation == "own" and not self.is_script else preparation
        how = {"stretched": "stretched to 224x224", "centre": "short side to 224, centre 224x224", "own": "as 0..255"}
        ends = "bilinear, no antialias, to [-1, 1]" if self.preparation != "own" else "resized inside the detector"
        self.preprocessing = f"first {NUM_FRAMES} frames {how[self.preparation]}, {ends}; I3D logits, mean over time"
        if self.is_script:
            self.detector = torch.jit.load(str(file), map_location=device()).eval()
        else:
            self.state = _state(str(file))

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        first = frames[:NUM_FRAMES]
        with torch.inference_mode():
            if self.preparation == "own":
                pixels = torch.from_numpy(np.moveaxis(to_uint8(first), -1, 0).astype(np.float32))[None].to(device())
                features = self.detector(pixels, rescale=True, resize=True, return_features=True)
            else:
                clip = resized(first, SIZE, crop=self.preparation == "centre") * 2 - 1
                clip = clip.transpose(0, 1)[None]
                if self.is_script:
                    features = self.detector(clip, rescale=False, resize=False, return_features=True)
                else:
                    features = logits(self.state, clip)
        return features.double().cpu().numpy()

    def encode_text(self, prompt: str) -> None:
        return None


def stretched(path: str) -> I3D:
    return I3D(path, "stretched")


def centred(path: str) -> I3D:
    """As VideoGPT prepares clips."""
    return I3D(path, "centre")


def as_stylegan_v(path: str) -> I3D:
    return I3D(path, "own")


def _is_script(file: Any) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _state(file: str) -> State:
    import torch

    try:
        state = torch.load(file, map_location=device(), weights_only=True)
    except Exception as error:  # torch has no one error for a file that is no state dict
        raise UserError(f"weights {file!r} are not those of I3D ({type(error).__name__})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    absent = expected_keys() - set(state) if isinstance(state, dict) else expected_keys()
    if absent:
        raise UserError(f"weights {file!r} are not those of I3D: {sorted(absent)[0]} and {len(absent) - 1} more lack")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
