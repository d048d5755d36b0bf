"""The report of a demo folder drawn here: sandbox clips, plausible numbers, and every way in which a folder is half."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base_model.world.dataset import make_clip
from core.errors import UserError
from core.preferences import Store
from core.run import Run
from core.videoset import Writer
from eval import gallery, plot, report, svg, verdict

HOSTILE = '<img src=x onerror="alert(1)"> & "a red ball" {{ 7 * 7 }} </script>'
NUM_PAIRS = 12
NOT_RUN = "the set has one video per prompt"


def compared(a: float, b: float, spread: float, p: float, higher: bool | None = True, unit: str = "score") -> dict:
    interval = {"difference": b - a, "low": b - a - spread, "high": b - a + spread, "p": p, "n": 320}
    return {"a": a, "b": b, "unit": unit, "higher_is_better": higher, "method": "paired bootstrap"} | interval


def won(rate: float, spread: float = 0.055, p: float = 0.0002) -> dict:
    """A win rate as eval.compare writes it: low and high bound the rate, not its difference."""
    return compared(0.5, rate, 0, p, unit="share of pairs") | {"low": rate - spread, "high": rate + spread}


METRICS = {
    "gold_win_rate": won(0.742),
    "physics_pass_rate": compared(0.413, 0.55, 0.061, 0.0004, unit="share of videos"),
    "clip_sim[sandbox]": compared(0.271, 0.279, 0.0049, 0.002, unit="cosine"),
    "diversity": compared(0.101, 0.093, 0.0051, 0.004, unit="rms pixel difference"),
    "fvd[sandbox,dct]": compared(38.2, 29.9, 6.1, 0.012, higher=False, unit="squared standard deviations"),
    "mmd[sandbox,dct]": compared(0.0041, 0.0032, 0.0012, 0.14, higher=False, unit="squared kernel distance"),
    "flicker": compared(0.981, 0.984, 0.002, 0.011, unit="1 - mean |frame difference|"),
    "motion": compared(0.81, 0.79, 0.03, 0.2, higher=None, unit="share of frame pairs"),
    "attributes/colour": compared(0.956, 0.962, 0.02, 0.6, unit="share of videos"),
    "consistency[sandbox]": compared(0.962, 0.962, 0.001, 0.9, unit="cosine"),
}


PAIRS = {"num_pairs": 320, "num_prompts": 160, "seed": 0, "tie_band": 0.02}


def write_set(folder: Path, model: str, noise: float, gain: float) -> None:
    writer = Writer(folder)
    random = np.random.default_rng(0)
    lines = []
    for index in range(NUM_PAIRS):
        clip = make_clip(0, index, split="heldout", noise=noise)
        prompt = HOSTILE if index == 0 else make_clip(0, index, split="heldout").prompt
        writer.append(clip.frames, prompt, id=f"{index:05d}", seed=index, model=model)
        row = {"id": f"{index:05d}", "prompt": prompt, "seed": index, "video": f"videos/{index:05d}.mp4"}
        gold = round(float(random.uniform(0.3, 0.7)) + gain * float(np.cos(index)), 4)
        scores = {"gold": gold, "physics_pass_rate": float(index % 3 > gain), "clip_sim[sandbox]": 0.27 + gain / 10}
        lines.append(row | scores | {"flicker": None, "reasons": {"flicker": "one frame"}})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    side = "b" if gain else "a"
    metrics = {
        name: {"value": row[side], "interval": None, "n": row["n"], "unit": row["unit"], "version": "1", "reason": None}
        | {"higher_is_better": row["higher_is_better"], "backbone": None, "preprocessing": "frames as decoded"}
        for name, row in METRICS.items()
    }
    metrics["flicker"]["flagged"] = ["frozen"]
    metrics["diversity[sandbox]"] = {"value": None, "n": 0, "unit": "rms", "higher_is_better": True, "reason": NOT_RUN}
    metrics["clip_sim[sandbox]"] |= {"backbone": "sandbox CLIP", "backbone_sha256": "5fe3" * 16, "blind_spots": "order"}
    libraries = {"torch": "2.15.0", "numpy": "2.4.6", "av": "17.0.0"}
    provenance = {
        "commit": "27c50ab0",
        "seed": 0,
        "seeds": list(range(12)),
        "libraries": libraries,
        "created": "2026-01-05T10:00:00Z",
    }
    results = {"metrics": metrics, "provenance": provenance | {"reference": "/home/somebody/real"}}
    (folder / "results.json").write_text(json.dumps(results))


def write_demo(folder: Path, steps: int = 40) -> Path:
    write_set(folder / "base", "sandbox", noise=0.9, gain=0.0)
    write_set(folder / "aligned", "sandbox", noise=0.0, gain=0.12)
    (folder / "compare.json").write_text(json.dumps({"metrics": METRICS, "a": "base", "b": "aligned"} | PAIRS))
    run = Run.open(folder / "align", {"model": "sandbox", "algorithm": "DDPO", "clip_range": 1e-4, "seed": 0})
    random = np.random.default_rng(1)
    for step in range(1, steps + 1):
        rise = 1 - np.exp(-step / 12)
        row = {"reward/total": 0.2 + rise + 0.1 * random.normal(), "reward/clip": 0.27 + 0.01 * rise}
        row |= {"reward/preference": 1.4 * rise + 0.1 * random.normal(), "judge/attributes": 0.8 + 0.05 * rise}
        row |= {"align/approx_kl": 2e-6 * step, "align/clip_fraction": 0.2 * random.random(), "align/dead_groups": 0.0}
        run.log(step, row | {"time/sample_seconds": 3.1, "time/train_seconds": 5.2}, samples=64 * step)
    for step in (0, 10, 20, 30, 40):
        writer = Writer(run.samples / f"step-{step:06d}")
        for index in range(2):
            clip = make_clip(3, index, noise=1 - step / 40)
            writer.append(clip.frames, make_clip(3, index).prompt, id=f"{index:04d}", seed=index)
    (folder / "reward").mkdir()
    accuracy = {"value": 0.731, "low": 0.69, "high": 0.77, "n": 412}
    aspects = {"overall": {"accuracy": accuracy, "majority": 0.52, "random": 0.5}, "motion_quality": {"reason": "none"}}
    aspects["text_alignment"] = {"accuracy": accuracy | {"value": 0.83, "low": 0.79, "high": 0.87}}
    card = {"aspects": aspects, "num_pairs": {"training": 500, "calibration": 100, "held_out": 412}}
    (folder / "reward" / "report.json").write_text(json.dumps(card))
    store = Store(folder / "preferences.db")
    with store.transaction():
        for index in range(NUM_PAIRS):
            videos = [store.add_video(folder / name / f"videos/{index:05d}.mp4") for name in ("base", "aligned")]
            pair = store.add_pair(f"prompt {index}", *videos, target_votes=2)
            for annotator in ("first", "second"):
                store.record_vote(pair, annotator, "overall", "ab"[index % 2] if index % 5 else "tie")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture
def demo(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "demo"))


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return report.write(whole).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees: tags and embedded data taken out."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_page_asks_the_network_for_nothing(page: str) -> None:
    assert "http://" not in page and "https://" not in page and "//cdn" not in page
    assert not re.search(r"\b(src|href|poster)=\"(?!data:|#)", page)
    assert "default-src 'none'" in page
    assert len(page) < 6_000_000


def test_verdict_stands_on_top_with_its_interval(page: str) -> None:
    text = text_of(page)
    assert "Alignment helped: the judge prefers the aligned video in 74" in text
    assert re.search(r"95.% interval 69 to 80.%, 320 same-seed pairs", text)
    assert "41 \u2192 55" in text
    assert re.search(r"metrics that got worse 1 of 9 diversity", text)


def test_every_metric_has_a_row(page: str) -> None:
    for name in (*METRICS, "diversity[sandbox]"):
        assert f'<th scope="row"><code>{name}</code>' in page
    assert f"not measured: {NOT_RUN}" in page
    assert "fooled by spoilt real videos: frozen" in page


def test_prompts_cannot_become_markup_or_template(page: str) -> None:
    assert "<img src=x" not in page and "onerror=&#34;" in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("</script>") == 1


def test_reward_model_stands_beside_its_baselines(page: str) -> None:
    assert "overall 73\u2009%, text alignment 83\u2009%" in page
    assert "; 412 pairs." in page


def test_pictures_have_words(page: str) -> None:
    assert all("aria-label=" in tag for tag in re.findall(r"<svg[^>]*>|<video[^>]*>", page, re.DOTALL))
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", page))
    assert "reward/total: " in page and "at step 40" in page


def test_losses_are_shown_beside_wins(page: str) -> None:
    text = text_of(page)
    assert text.index("At random") < text.index("Biggest wins") < text.index("Biggest losses")
    assert "drawn with seed 0 from all 12 pairs" in text
    assert page.count("<video") == 6 + 3 + 3 + 2  # two films of training


def test_same_folder_gives_the_same_bytes(demo: Path, page: str) -> None:
    assert report.write(demo).read_text(encoding="utf-8") == page


def test_missing_parts_are_noted_and_the_rest_is_shown(demo: Path) -> None:
    (demo / "compare.json").unlink()
    (demo / "align" / "metrics.jsonl").unlink()
    (demo / "preferences.db").unlink()
    (demo / "reward" / "report.json").write_text("{ half")
    (demo / "aligned" / "samples.jsonl").unlink()
    text = text_of(report.write(demo).read_text(encoding="utf-8"))
    for note in (
        "compare.json is missing",
        "metrics.jsonl has no lines yet",
        "preferences.db is missing",
        "reward/report.json cannot be read",
        "pairs are shown at random only",
    ):
        assert note in text
    assert "No verdict yet" not in text  # the results of both sides still hold the win rate
    assert "At random" in text and "Biggest wins" not in text


@pytest.mark.parametrize("part", ["base", "aligned", "align", "reward"])
def test_report_of_a_folder_without_a_part(demo: Path, part: str) -> None:
    shutil.rmtree(demo / part)
    page = report.write(demo).read_text(encoding="utf-8")
    assert "Worth knowing:" in page and "gold_win_rate" in page


def test_provenance_names_commit_seeds_and_versions_but_no_folder_of_the_machine(page: str) -> None:
    text = text_of(page)
    for words in ("27c50ab0", "12 different", "torch 2.15.0", "sandbox CLIP 5fe35fe35fe3", "320 pairs of 160 prompts"):
        assert words in text
    assert "/home/somebody" not in page


def test_broken_video_is_told_in_its_place(demo: Path) -> None:
    for path in sorted((demo / "aligned" / "videos").glob("*.mp4"))[:6]:
        path.write_bytes(b"not a video")
    text = text_of(report.write(demo).read_text(encoding="utf-8"))
    assert "This cannot be shown: " in text and "not a readable video" in text
    assert str(demo) not in text
    assert "Biggest losses" in text


def test_folder_without_anything_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing to report on"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="not a folder"):
        report.write(tmp_path / "nowhere")


def test_markdown_summary_has_verdict_and_table(whole: Path) -> None:
    summary = report.markdown(whole)
    assert summary.startswith("**Alignment helped")
    assert all(f"| {name} |".replace("[", "\\[") in summary for name in METRICS)


def test_report_needs_no_torch() -> None:
    code = "import sys; from eval import report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_fewer_pairs_than_a_draw_are_all_shown() -> None:
    assert gallery.choose([]) == {"random": [], "wins": [], "losses": []}


def test_large_videos_are_shrunk_to_fit(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((9, 3, 160, 288), dtype=np.float32)
    items = [Writer(tmp_path).append(frames[: 9 - 4 * index], "noise", id=f"{index}") for index in range(2)]
    film = gallery.film([item.video for item in items])
    assert film.problem == "" and film.width <= 2 * 256 and film.num_bytes < 2_000_000


def test_a_row_is_better_by_direction_and_surely_so_after_correction() -> None:
    rows = {row.name: row for row in verdict.rows({"metrics": METRICS}, {}, {})}
    assert rows["fvd[sandbox,dct]"].tone == "better" and not rows["fvd[sandbox,dct]"].is_sure
    assert rows["physics_pass_rate"].is_sure
    assert rows["diversity"].tone == "worse" and rows["motion"].tone == "unclear"
    value, low, high = rows["fvd[sandbox,dct]"].effect
    assert low < value < high and low > 0


def test_a_metric_without_a_better_direction_moves_or_is_unclear() -> None:
    def said(p: float | None, corrected: float | None = None) -> str:
        return verdict.Row("motion", base=0.5, aligned=0.6, difference=0.1, p=p, corrected_p=corrected).verdict

    assert [said(0.01, 0.04), said(0.01, 0.3), said(0.3, 1.0), said(None)] == [
        "moved",
        "maybe moved",
        "unclear",
        "no test",
    ]


def test_a_test_and_an_interval_that_disagree_are_said() -> None:
    def caution(low: float) -> str:
        found = {"a": 6.0, "b": 0.2, "difference": -5.8, "low": low, "high": 1.4, "p": 0.01, "flagged": ["blur"]}
        return verdict.rows({"metrics": {"mmd[x]": found}}, {}, {})[0].caution

    assert "interval does not" in caution(-13.0) and caution(0.1) == "fooled by spoilt real videos: blur"


def test_one_metric_of_many_at_p_05_is_only_maybe_better() -> None:
    rows = {row.name: row for row in verdict.rows({"metrics": METRICS}, {}, {})}
    assert rows["flicker"].verdict == "maybe better" and rows["diversity"].verdict == "worse"
    own = verdict.rows({"metrics": {"flicker": METRICS["flicker"] | {"p_holm": 0.02}}}, {}, {})
    assert own[0].verdict == "better"


def test_win_rate_interval_is_that_of_the_rate() -> None:
    row = verdict.rows({"metrics": {"gold_win_rate": won(0.7, 0.05)}}, {}, {})[0]
    assert verdict.win_interval(row) == pytest.approx((0.65, 0.75))
    assert (row.low, row.high) == pytest.approx((0.15, 0.25))


def test_effect_of_independent_pairs_is_cohens_d() -> None:
    n, mean, spread = 400, 0.3, 1.5
    half = 1.96 * spread / np.sqrt(n)
    row = verdict.Row("x", difference=mean, low=mean - half, high=mean + half, n=n)
    assert row.effect[0] == pytest.approx(mean / spread)


@pytest.mark.parametrize(("rate", "words"), [(0.7, "helped"), (0.52, "No clear difference"), (0.3, "hurt")])
def test_headline_follows_the_interval(rate: float, words: str) -> None:
    rows = verdict.rows({"metrics": {"gold_win_rate": won(rate)}}, {}, {})
    assert words in verdict.headline(rows)


def test_numbers_keep_three_digits() -> None:
    assert [svg.number(value) for value in (0.74213, 1234.5, -0.5, 2e-6, 0, None)] == [
        "0.742", "1234", "\u22120.500", "2.00e\u22126", "0", "\u2013",
    ]  # fmt: skip


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(0.13, 0.98) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert svg.ticks(5.0, 5.0) == [5.0]


def test_curve_of_one_point_and_of_gaps_is_drawn() -> None:
    assert "<svg" in plot.curve([(1, 0.5)], "x") and plot.curve([(1, None)], "x") == ""
    assert 'data-x="step 1|step 3" data-y="1.000|3.000"' in plot.curve([(1, 1.0), (2, None), (3, 3.0)], "x")
