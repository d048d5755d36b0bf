"""How good is the model that ships? Codec PSNR, CLIP retrieval, and what held-out prompts show, judged by the reader.

python benchmarks/sandbox_quality.py [--num-prompts 256] [--guidance 3.0] [--num-steps 20] [--most-objects 2]

Guidance and steps are the model's usual ones; a guidance that is given acts at every noise level.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import numpy as np
import torch

import base_model
from base_model.sampler import generate_frames
from base_model.text import load_clip
from base_model.world import caption, dataset, motion, reader
from core.stats import wilson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--num-prompts", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--num-steps", type=int, default=None)
    parser.add_argument("--most-objects", type=int, default=2)
    parser.add_argument("--style", choices=("short", "descriptive"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = base_model.load(options.model)

    real = [dataset.make_clip(11, index, split="heldout", style="descriptive") for index in range(64)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in real]))
    with torch.no_grad():
        error = torch.cat([generator.decode(generator.encode(part)) - part for part in frames.split(8)]).square().mean()
    print(f"codec PSNR {-10 * math.log10(float(error)):.2f} dB on {len(real)} held-out clips")
    print(f"CLIP retrieval among 32: {retrieval(256):.3f} of 256 held-out clips")

    wanted = {"style": options.style, "most_objects": options.most_objects}
    prompts = dataset.prompts(12, options.num_prompts, "heldout", **wanted)
    begin = time.perf_counter()
    sampling = generator.usual
    if options.guidance is not None:
        sampling = replace(sampling, guidance=options.guidance, guidance_interval=(0.0, 1.0))
    if options.num_steps is not None:
        sampling = replace(sampling, num_steps=options.num_steps)
    clips = generate_frames(generator, prompts, seeds=list(range(len(prompts))), sampling=sampling)
    print(f"{(time.perf_counter() - begin) / len(prompts):.3f} s a clip, {sampling}")
    right: dict[str, list[bool]] = {}
    for prompt, clip in zip(prompts, clips, strict=True):
        spec = caption.parse(prompt)
        assert spec is not None
        found = motion.match(reader.read(clip.numpy()), spec)
        for name, value in (found | {f"family of {spec.family}": found["family"]}).items():
            right.setdefault(name, []).append(value)
    for name, values in right.items():
        rate = wilson(sum(values), 0, len(values))
        print(f"{name:24s} {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {len(values)}")


def retrieval(count: int) -> float:
    """Share of held-out clips whose own descriptive caption scores highest among 31 others."""
    clip = load_clip()
    real = [dataset.make_clip(13, index, split="heldout", style="descriptive") for index in range(count)]
    with torch.no_grad():
        frames = torch.from_numpy(np.stack([one.frames[::2] for one in real]))
        videos = torch.cat([clip.encode_videos(part) for part in frames.split(32)])
        texts = clip.encode_text([one.prompt for one in real])
    rng = np.random.default_rng(0)
    hits = 0
    for index, one in enumerate(real):
        others = [i for i in rng.permutation(count) if real[i].prompt != one.prompt][:31]
        hits += int((texts[[index, *others]] @ videos[index]).argmax() == 0)
    return hits / count


if __name__ == "__main__":
    main()
