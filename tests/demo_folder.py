"""A small folder laid out as `soralign demo` leaves it, with known numbers in it."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core import videoset
from core.preferences import Store
from core.run import Run

PROMPTS = (
    "a red ball bounces",
    "a small blue square slides to the left",
    "a green triangle falls <b>under</b> gravity",
    "two yellow balls collide",
)


def disc(index: int, speed: float) -> NDArray[np.float32]:
    """A disc that moves right: [17, 3, 32, 32] in [0, 1]."""
    rows, columns = np.mgrid[:32, :32]
    frames = np.full((17, 3, 32, 32), 0.08, dtype=np.float32)
    for time in range(17):
        inside = np.hypot(columns - 4 - speed * time, rows - 8 - 4 * (index % 4)) < 4
        frames[time, index % 3][inside] = 0.9
    return frames


def write_set(folder: Path, model: str, speed: float, pass_rate: float) -> None:
    writer = videoset.Writer(folder)
    lines: list[dict[str, object]] = []
    tracks: list[dict[str, object]] = []
    for index, prompt in enumerate(PROMPTS):
        item = writer.append(disc(index, speed), prompt, id=f"{index:04d}", seed=index, model=model)
        row = {"id": item.id, "prompt": prompt, "seed": index, "video": f"videos/{item.id}.mp4"}
        scores = {"physics_pass_rate": float(index < 4 * pass_rate), "flicker": 0.01 * index * speed}
        scores |= {"gold": 0.2 + 0.1 * index + 0.2 * speed, "physics/motion": 0.9, "physics_quality": 0.2 * index}
        lines.append(row | scores)
        path = [[4.0 + speed * time, 8.0 + 4 * (index % 4)] if time != 9 else None for time in range(17)]
        seen = {"colour": "red", "shape": "ball", "radius": 4.0, "position": path}
        tracks.append({"id": item.id, "width": 32, "height": 32, "objects": [seen]})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "tracks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tracks))
    metric = {"value": pass_rate, "interval": [pass_rate - 0.1, pass_rate + 0.1], "n": 4, "unit": "share"}
    metric |= {"higher_is_better": True, "reason": None, "range": [0, 1]}
    results = {"metrics": {"physics_pass_rate": metric}, "provenance": {}}
    (folder / "results.json").write_text(json.dumps(results))


def comparison(
    a: float, b: float, p: float, corrected: float, higher: bool, spread: float, unit: str = "share of videos"
) -> dict[str, object]:
    row: dict[str, object] = {"a": a, "b": b, "difference": b - a, "low": b - a - spread, "high": b - a + spread}
    row |= {"p": p, "p_holm": corrected, "n": 128, "unit": unit, "higher_is_better": higher, "reason": None}
    return row | {"method": "bootstrap over prompts", "effect": None}


COMPARISON = {
    "metrics": {
        "flicker": comparison(0.020, 0.024, 0.001, 0.004, False, 0.002, "1"),
        "fvd[sandbox,dct]": comparison(212.0, 143.0, 0.0002, 0.001, False, 40.0, "squared distance"),
        "diversity": comparison(0.41, 0.40, 0.6, 0.6, True, 0.03, "1"),
        # Here low and high bound b itself, as `soralign compare` writes them.
        "gold_win_rate": comparison(0.5, 0.78, 0.0001, 0.0006, True, 0.06) | {"low": 0.72, "high": 0.84},
        "clip_sim[sandbox]": comparison(0.271, 0.279, 0.03, 0.06, True, 0.006, "cosine"),
        "physics_pass_rate": comparison(0.25, 0.75, 0.002, 0.006, True, 0.1),
        "physics/gravity": comparison(0.5, 0.7, 0.002, 0.006, True, 0.1, "score"),
    },
    "a": "base",
    "b": "aligned",
}


def accuracy(value: float) -> dict[str, float | int]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200}


REWARD_REPORT = {
    "aspects": {
        aspect: {"accuracy": accuracy(value), "majority": 0.52, "random": 0.5, "calibration_error": 0.03}
        | {"accuracy_with_ties": accuracy(value - 0.1), "majority_with_ties": 0.41, "random_with_ties": 0.36}
        for aspect, value in (("text_alignment", 0.81), ("motion_quality", 0.66), ("overall", 0.78))
    }
    | {"visual_quality": {"reason": "no held-out pair was asked about this aspect"}},
    "num_pairs": {"training": 600, "calibration": 200, "held_out": 200},
}


def write_demo(folder: Path, steps: int = 12, seed: int = 0) -> Path:
    """The whole folder; returns it."""
    write_set(folder / "base", "sandbox", 0.5, 0.25)
    write_set(folder / "aligned", "sandbox+lora", 1.2, 0.75)
    (folder / "compare.json").write_text(json.dumps(COMPARISON))
    run = Run.open(folder / "align", {"algorithm": "DDPO", "learning_rate": 1e-3, "seed": 0, "reward": "preference"})
    random = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        reward = 0.2 + 0.5 * (1 - np.exp(-step / 6)) + 0.04 * random.standard_normal()
        scores = {"reward/total": reward, "reward/preference": reward * 1.3, "reward/clip": 0.27 + 0.002 * step}
        scores |= {"judge/trained_reward": reward, "judge/gold": 0.3 + 0.02 * step - 0.002 * step**2}
        health = {
            "align/kl_reference": 0.01 * step,
            "align/clip_fraction": 0.1 * random.random(),
            "align/approx_kl": 1e-4 * step,
            "align/dead_groups": 0,
        }
        run.log(step, scores | health | {"time/sample_seconds": 2.0 + random.random()}, 64 * step)
    for step in (0, 6, 12):
        writer = videoset.Writer(run.samples / f"step-{step:06d}")
        for index in range(2):
            writer.append(disc(index, 0.5 + step / 12), PROMPTS[index], id=f"{index:04d}", seed=index)
    (folder / "reward").mkdir(exist_ok=True)
    pair = {
        side: str(folder / name / "videos" / "0000.mp4") for side, name in (("liked", "base"), ("refused", "aligned"))
    }
    error = pair | {"prompt": "a red ball", "confidence": 0.93}
    (folder / "reward" / "report.json").write_text(json.dumps(REWARD_REPORT | {"worst_errors": [error]}))
    store = Store(folder / "preferences.db")
    for index, prompt in enumerate(PROMPTS):
        paths = [folder / name / "videos" / f"{index:04d}.mp4" for name in ("base", "aligned")]
        pair = store.add_pair(prompt, *(store.add_video(path) for path in paths), target_votes=2)
        for annotator in ("ada", "ben"):
            choice = "tie" if index == 3 else "b" if index < 2 or annotator == "ada" else "a"
            store.record_vote(pair, annotator, "overall", choice, left_is="ab"[index % 2])
    return folder
