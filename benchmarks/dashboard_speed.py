"""How long until a page of the dashboard can be read? Aim, for 1,000 videos x 10 runs: 2 s at first, then 1 s.

    python benchmarks/dashboard_speed.py [--num-videos 1000] [--num-runs 10] [--shots DIR] [--chromium PATH]

Makes run folders with known numbers (few distinct videos, linked many times), serves them, opens every page in headless
Chromium and waits until what it is for is on the screen: a table row, a chart, video cards. Every page is opened twice,
because the second time its files have been read. Prints one JSON line; --shots also leaves a picture of every page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from base_model.world import dataset, reader
from core import video
from core.preferences import Store
from core.run import Run
from eval import METRICS
from eval.bench import tracks_line

PER_VIDEO = [
    name for name in METRICS if not name.startswith(("fvd", "mmd", "frame", "precision", "recall", "physics_iq"))
]
DISTINCT = 24
# page -> what says that it can be read
READY = {
    "Overview": ".sora-results tbody tr",
    "Leaderboard": ".sora-matrix td",
    "Training": ".charts svg",
    "Optimisation": ".charts svg",
    "Gallery": ".gallery .card video",
    "Physics": ".gallery .card .tracks circle",
    "Checkpoints": ".gallery .card video",
    "Preferences": ".charts svg",
    "Reward": ".charts svg",
}
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def write_runs(folder: Path, num_videos: int, num_runs: int) -> None:
    clips = [dataset.make_clip(5, index, style="descriptive", most_objects=2) for index in range(DISTINCT)]
    (folder / ".clips").mkdir(parents=True)
    tracks = []
    for index, clip in enumerate(clips):
        video.write(folder / ".clips" / f"{index}.mp4", clip.frames, 8.0)
        tracks.append(tracks_line(reader.read(clip.frames)))
    rng = np.random.default_rng(0)
    for number in range(num_runs):
        run = folder / f"run-{number:02d}"
        for name in ("base", "aligned"):
            write_set(folder, run / name, name, num_videos // 2, clips, tracks, rng)
        write_rest(run, number, clips, rng)


def write_set(
    root: Path, folder: Path, name: str, count: int, clips: list[dataset.Clip], tracks: list[Any], rng: Any
) -> None:
    (folder / "videos").mkdir(parents=True)
    manifest, samples, seen = [], [], []
    lift = 0.2 if name == "aligned" else 0.0
    for index in range(count):
        which = index % len(clips)
        identity = f"{index:06d}"
        os.link(root / ".clips" / f"{which}.mp4", folder / "videos" / f"{identity}.mp4")
        line = {"id": identity, "prompt": clips[which].prompt, "seed": index // len(clips)}
        manifest.append(line | {"video": f"videos/{identity}.mp4", "model": name})
        values = {metric: round(float(np.clip(rng.normal(0.4 + lift, 0.2), 0, 1)), 4) for metric in PER_VIDEO}
        values["physics_pass_rate"] = float(rng.random() < 0.4 + lift)
        samples.append(line | {"video": f"videos/{identity}.mp4", "reasons": {}} | values)
        seen.append({"id": identity} | tracks[which])
    for file, rows in (("manifest.jsonl", manifest), ("samples.jsonl", samples), ("tracks.jsonl", seen)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {
        metric: {"value": float(np.mean([row[metric] for row in samples])), "n": count, "unit": "share of videos"}
        | {"interval": [0.3, 0.6], "range": [0, 1], "higher_is_better": True, "reason": None, "version": "1"}
        for metric in PER_VIDEO
    }
    (folder / "results.json").write_text(json.dumps({"metrics": metrics, "provenance": {}}))


def write_rest(folder: Path, number: int, clips: list[dataset.Clip], rng: Any) -> None:
    rows: dict[str, Any] = {}
    for metric in PER_VIDEO:
        gain = float(rng.normal(0.1, 0.1))
        rows[metric] = {"a": 0.4, "b": 0.4 + gain, "difference": gain, "low": gain - 0.08, "high": gain + 0.08}
        rows[metric] |= {"p": 0.01, "p_holm": 0.04, "n": 500, "unit": "share of videos", "higher_is_better": True}
    rows["gold_win_rate"] = rows["gold"] | {"a": 0.5, "b": 0.71, "difference": 0.21, "low": 0.65, "high": 0.76}
    (folder / "compare.json").write_text(json.dumps({"metrics": rows}))
    run = Run.open(folder / "align", {"algorithm": "NFT", "learning_rate": 1e-3 * (1 + number % 3), "seed": number})
    for step in range(1, 201):
        proxy = 1 - np.exp(-step / 50) + 0.03 * rng.standard_normal()
        gold = 0.5 + 0.006 * step - 3e-5 * step**2 + 0.02 * rng.standard_normal()
        told = {"reward/total": proxy, "judge/trained_reward": proxy, "judge/gold": gold}
        told |= {"align/kl_reference": 2e-4 * step**1.2, "align/clip_fraction": 0.1 * rng.random()}
        run.log(step, told | {"time/sample_seconds": 2 + rng.random()}, 64 * step)
    for step in (0, 100, 200):
        sets = run.samples / f"step-{step:06d}"
        (sets / "videos").mkdir(parents=True)
        lines = []
        for index, clip in enumerate(clips[:4]):
            os.link(folder.parent / ".clips" / f"{(index + step // 100) % 24}.mp4", sets / "videos" / f"{index}.mp4")
            lines.append({"id": str(index), "prompt": clip.prompt, "seed": index, "video": f"videos/{index}.mp4"})
        (sets / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "reward").mkdir()
    bins = [{"confidence": 0.55 + 0.09 * k, "accuracy": 0.52 + 0.085 * k, "n": 40} for k in range(5)]
    share = {"value": 0.76, "low": 0.7, "high": 0.82, "n": 200}
    aspect = {"accuracy": share, "accuracy_with_ties": share | {"value": 0.66, "low": 0.6, "high": 0.72}}
    aspect |= {"majority": 0.53, "random": 0.5, "majority_with_ties": 0.41, "random_with_ties": 0.36}
    aspect |= {"calibration_error": 0.03, "reliability": bins}
    report = {"aspects": {"text_alignment": aspect, "overall": aspect}}
    (folder / "reward" / "report.json").write_text(json.dumps(report))
    if number == 0:
        points = [
            {"n": n, "kl": float(np.log(n) - (n - 1) / n)}
            | {
                key: {"value": value, "low": value - 0.03, "high": value + 0.03}
                for key, value in (("proxy", 0.3 + 0.1 * np.log(n)), ("gold", 0.5 + 0.08 * np.log(n) - 0.012 * n))
            }
            for n in range(1, 9)
        ]
        told = {"proxy": "clip_sim[sandbox]", "gold": "gold", "points": points, "best_n": 6}
        (folder / "base" / "best_of_n.json").write_text(json.dumps(told))
    store = Store(folder / "preferences.db")
    for index in range(8):
        ids = [
            store.add_video(folder / name / "videos" / f"{index:06d}.mp4", model=name, seed=0)
            for name in ("base", "aligned")
        ]
        pair = store.add_pair(clips[index].prompt, *ids, target_votes=2)
        for annotator in ("ada", "ben"):
            store.record_vote(pair, annotator, "overall", str(rng.choice(["a", "b", "b", "tie"])), left_is="a")


def cpu_seconds(pid: int) -> float:
    """What a process has used of a core so far; unlike the clock it does not count who else was busy."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_pages(page: Page, url: str, shots: Path | None, pid: int) -> dict[str, dict[str, list[float]]]:
    """Seconds until each page can be read and those that the server computed, the first and the second time."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "server_cpu": []} for name in READY}
    for turn in range(2):
        for name, ready in READY.items():
            started, used = time.perf_counter(), cpu_seconds(pid)
            if turn == 0 and name == "Overview":
                page.goto(url)
            else:
                page.get_by_role("link", name=name).click()
            page.get_by_role("heading", name=name, level=1).wait_for()
            page.locator(ready).first.wait_for(state="attached")
            seconds[name]["wall"].append(round(time.perf_counter() - started, 2))
            seconds[name]["server_cpu"].append(round(cpu_seconds(pid) - used, 2))
            if turn == 1 and shots is not None:
                page.wait_for_timeout(1500)
                page.screenshot(path=str(shots / f"{name.lower()}.png"))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-videos", type=int, default=1000, help="videos a run, base and aligned together")
    parser.add_argument("--num-runs", type=int, default=10)
    parser.add_argument("--shots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="path of the browser")
    options = parser.parse_args()
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        write_runs(Path(temporary), options.num_videos, options.num_runs)
        command = [sys.executable, "-m", "dashboards", "dashboard", temporary, "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert server.stdout is not None
        url = next(found.group(0) for line in server.stdout if (found := re.search(r"http://\S+", line)))
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=options.chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1280, "height": 1400})
                page.set_default_timeout(300_000)
                seconds = open_pages(page, url, options.shots, server.pid)
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
    shape = {"num_videos": options.num_videos, "num_runs": options.num_runs, "load": os.getloadavg()[0]}
    print(json.dumps(shape | {"seconds": seconds}))


if __name__ == "__main__":
    main()
