"""What does an evaluation cost besides decoding and the backbone? Aim: under 5 % with a video network.

    python benchmarks/harness_overhead.py [--num-videos 64] [--num-i3d 8]

Evaluates sandbox clips against as many others: once with an I3D of the published size (random weights; the time is the
same) and its set metrics, once with everything that the shipped weights allow, controls left out. Processor seconds
under a profiler, so the machine may be busy; the profiler itself counts as harness. Prints one JSON line: seconds in
all and the share of decoding, of the network (frames and prompts), of the flow estimator (which is the network of the
metrics of flow), of loading the weights (once a run, however many videos), of the metrics' own mathematics (readers,
warping, distances, intervals) and of the harness, which is what is left.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from pathlib import Path

import torch

from base_model.world import dataset
from core import video
from eval import i3d, run

CHANNELS = {  # of the paths b0, b1a, b1b, b2a, b2b, b3b (Carreira & Zisserman 2017)
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# part -> (file, function) whose time with all that they call is that part's
PARTS = {
    "decoding": (("core/video.py", "read"),),
    "network": (("eval/i3d.py", "encode_frames"), ("eval/backbones.py", "encode_frames")),
    "text": (("eval/backbones.py", "encode_text"),),
    "flow": (("eval/flow.py", "flow"),),
    "loading": (("eval/backbones.py", "load"),),
    "metrics": (
        ("eval/bench.py", "_score"),
        ("eval/run.py", "_add_groups"),
        ("eval/entries.py", "video_entry"),
        ("eval/entries.py", "set_entry"),
    ),
}


def published_i3d() -> dict[str, torch.Tensor]:
    """A state dict with the shapes of the published I3D."""
    state: dict[str, torch.Tensor] = {}

    def unit(name: str, inside: int, outside: int, size: int) -> None:
        state[f"{name}.conv3d.weight"] = torch.randn(outside, inside, size, size, size) / (inside * size**3) ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = torch.ones(outside)

    unit("Conv3d_1a_7x7", 3, 64, 7)
    unit("Conv3d_2b_1x1", 64, 64, 1)
    unit("Conv3d_2c_3x3", 64, 192, 3)
    inside = 192
    for block, (b0, b1a, b1b, b2a, b2b, b3b) in CHANNELS.items():
        paths = {"b0": (inside, b0, 1), "b1a": (inside, b1a, 1), "b1b": (b1a, b1b, 3)}
        paths |= {"b2a": (inside, b2a, 1), "b2b": (b2a, b2b, 3), "b3b": (inside, b3b, 1)}
        for path, shape in paths.items():
            unit(f"Mixed_{block}.{path}", *shape)
        inside = b0 + b1b + b2b + b3b
    state["logits.conv3d.weight"] = torch.randn(400, inside, 1, 1, 1) / inside**0.5
    state["logits.conv3d.bias"] = torch.zeros(400)
    assert state.keys() == i3d.expected_keys()
    return state


def write_set(folder: Path, num_videos: int, seed: int) -> None:
    (folder / "videos").mkdir(parents=True)
    lines = []
    for index in range(num_videos):
        clip = dataset.make_clip(seed, index, style="descriptive", most_objects=2)
        name = f"videos/{index}.mp4"
        video.write(folder / name, clip.frames, 8.0)
        lines.append(json.dumps({"id": str(index), "video": name, "prompt": clip.prompt, "seed": seed}) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines))


def measure(folder: Path, num_videos: int, metrics: list[str], weights: dict[str, str]) -> dict[str, float]:
    for name, seed in (("made", 1), ("real", 2)):
        write_set(folder / name, num_videos, seed)
    # loads the network and all libraries; its features are kept elsewhere
    write_set(folder / "first", 2, 3)
    run.evaluate(folder / "first", metrics, reference=folder / "first", weights=weights, num_controls=0)
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    run.evaluate(folder / "made", metrics, reference=folder / "real", weights=weights, num_controls=0)
    profile.disable()
    stats = pstats.Stats(profile)
    total = stats.total_tt  # type: ignore[attr-defined]
    spent = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        for part, places in PARTS.items():
            if any(file.endswith(place) and function == name for place, name in places):
                spent[part] += cumulative
    spent["metrics"] -= spent["text"] + spent["flow"]  # which they call
    spent["network"] += spent.pop("text")
    shares = {part: round(seconds / total, 4) for part, seconds in spent.items()}
    return (
        {"videos": 2 * num_videos, "seconds": round(total, 2)}
        | shares
        | {"harness": round(1 - sum(shares.values()), 4)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-videos", type=int, default=64, help="a side, with the shipped weights")
    parser.add_argument("--num-i3d", type=int, default=8, help="a side, with I3D; a clip takes seconds")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(published_i3d(), folder / "i3d.pt")
        found["sandbox"] = measure(folder / "sandbox", options.num_videos, ["all"], {})
        print(json.dumps(found), flush=True)
        metrics = ["fvd[i3d,16f,224,bilinear]", "mmd[i3d,16f,224,bilinear]", "precision[i3d,16f,224,bilinear]"]
        found["i3d"] = measure(folder / "i3d", options.num_i3d, metrics, {"i3d": str(folder / "i3d.pt")})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
