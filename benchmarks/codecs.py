"""Codecs side by side: what comes back, what a cell costs, what tiles and pieces change.

python benchmarks/codecs.py [--num-clips 16] [--codec NAME=FOLDER ...]

Without --codec: the shipped codec, whole and frame by frame. PSNR is over all pixels of held-out clips; "object" PSNR
over those that are not the ground, where the difference lies.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from torch import Tensor

from base_model.codec.load import Saved, load_codec
from base_model.codec.long import decode_pieces, encode_pieces, seam_error
from base_model.codec.quantize import perplexity
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import Past
from base_model.options import WEIGHTS
from base_model.world.dataset import make_clip


def psnr(error: Tensor) -> float:
    """dB of mean squared error of pixels in [0, 1]."""
    return -10 * math.log10(float(error.square().mean()))


def line(codec: Saved, frames: Tensor) -> str:
    begin = time.perf_counter()
    latents = torch.cat([codec.encode(part) for part in frames.split(4)])
    back = torch.cat([codec.decode(part) for part in latents.split(4)])
    seconds = (time.perf_counter() - begin) / len(frames)
    error = back - frames
    ground = frames[0, 0, :, 0, 0][None, None, :, None, None]
    drawn = ((frames - ground).abs().amax(2, keepdim=True) > 0.02).expand_as(error)
    values = latents[0].numel() / frames[0].numel()
    used = ""
    if isinstance(codec, QuantizedVideoCodec):
        codes = torch.cat([codec.codes(part) for part in frames.split(4)])
        most = int(codes.max()) + 1
        each = [perplexity(codes[..., group], most) for group in range(codes.shape[-1])]
        used = f"{sum(each) / len(each):.1f} of {most}"
    return f"{psnr(error):9.2f}{psnr(error[drawn]):9.2f}{values:9.4f}{1e3 * seconds:9.0f}  {used}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=16)
    parser.add_argument("--codec", nargs="*", default=[], metavar="NAME=FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = [make_clip(11, index, split="heldout").frames for index in range(options.num_clips)]
    frames = torch.from_numpy(np.stack(clips))
    shipped = load_codec(WEIGHTS / "vae")
    codecs: dict[str, Saved] = {"shipped": shipped, "shipped, frame by frame": load_codec(WEIGHTS / "vae", True)}
    codecs |= {name: load_codec(folder) for name, _, folder in (text.partition("=") for text in options.codec)}
    with torch.no_grad():
        print(f"{'':26s}{'PSNR':>9s}{'object':>9s}{'values':>9s}{'ms/clip':>9s}  codes in even use")
        for name, codec in codecs.items():
            print(f"{name:26s}{line(codec, frames)}", flush=True)

        large = torch.from_numpy(make_clip(11, 0, height=128, width=128).frames)[None]
        latents = shipped.encode(large)
        print("\ntiles of 4 x 4 cells, 128x128: margin, mean and largest difference from whole decoding")
        for margin in range(shipped.reach + 1):
            mean, most = seam_error(shipped, latents, 4, margin)
            print(f"{margin:3d}{mean:12.2e}{most:12.2e}")

        print("\npieces of 8 frames: frames, largest difference from the whole, bytes remembered")
        for count in (17, 65, 257):
            video = torch.from_numpy(make_clip(11, 1, num_frames=count, families=["pendulum"]).frames)[None]
            past = Past()
            whole = shipped.encode(video)
            made = torch.cat(list(encode_pieces(shipped, video.split(8, dim=1))), dim=2)
            back = torch.cat(list(decode_pieces(shipped, whole, 2)), dim=1)
            shipped.encode(video[:, :1], past)
            for piece in video[:, 1:].split(8, dim=1):
                shipped.encode(piece, past)
            held = sum(cell.nbytes for cell in past.cells.values())
            worst = max(float((made - whole).abs().max()), float((back - shipped.decode(whole)).abs().max()))
            print(f"{count:5d}{worst:12.2e}{held:12d}")


if __name__ == "__main__":
    main()
