"""Leaderboards recover planted orders and say what cannot be ranked; best-of-N against brute force; prompt suites."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from base_model.world.caption import parse
from core import cli, stats
from core.errors import UserError
from core.preferences import Store
from eval import best_of_n, leaderboard, paired_tests, pairs, result, suite
from eval.leaderboard import Meetings


def write_set(folder: Path, values: np.ndarray, metric: str = "gold", higher: bool = True) -> Path:
    """Two seeds a prompt."""
    folder.mkdir(parents=True)
    rows = [
        {"id": f"v{i}", "prompt": f"prompt {i // 2}", "seed": i % 2, "reasons": {}, metric: float(value)}
        for i, value in enumerate(values)
    ]
    result.write_samples(folder, rows)
    result.write_json(folder / result.RESULTS, {"metrics": {metric: {"value": 0.0, "higher_is_better": higher}}})
    return folder


def test_standings_recover_planted_ratings_and_their_order() -> None:
    rng, skill = np.random.default_rng(0), np.array([1.0, 0.0, -1.0])
    rows, prompts = [], []
    for n in range(900):
        i, j = rng.choice(3, size=2, replace=False)
        rows.append((i, j, float(rng.random() < 1 / (1 + math.exp(skill[j] - skill[i])))))
        prompts.append(f"prompt {n % 150}")
    found = stats.standings(["good", "middle", "bad"], rows, prompts)
    assert [one.player for one in found] == ["good", "middle", "bad"] and [one.rank for one in found] == [1, 2, 3]
    assert [one.rating for one in found] == pytest.approx(skill, abs=0.25)
    assert all(one.low < one.rating < one.high and one.rank_low <= one.rank <= one.rank_high for one in found)
    assert (found[0].rank_low, found[0].rank_high) == (1, 1) and found[0].win_rate > 0.6


def test_equal_players_share_the_ranks() -> None:
    rng = np.random.default_rng(1)
    rows = [(0, 1, float(share)) for share in rng.choice([0, 0.5, 1], size=60)]
    found = stats.standings(["a", "b"], rows, [str(i) for i in range(60)])
    assert all((one.rank_low, one.rank_high) == (1, 2) for one in found)


def test_a_player_who_never_lost_stays_finite() -> None:
    found = stats.standings(["a", "b"], [(0, 1, 1.0)] * 20, [str(i) for i in range(20)])
    assert math.isfinite(found[0].rating) and found[0].rating > 2


def test_islands_are_players_that_never_met() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[3, 2] = 1
    assert sorted(map(sorted, stats.islands(wins))) == [[0, 1], [2, 3]]
    wins[1, 2] = 0.5
    assert len(stats.islands(wins)) == 1


def test_win_rates_have_the_interval_that_a_comparison_gives_them(tmp_path: Path) -> None:
    """Seeds of one prompt that agree are not independent, in the leaderboard neither."""
    rng = np.random.default_rng(0)
    gain = np.repeat(rng.standard_normal(15) + 0.5, 2)
    sets = {"base": write_set(tmp_path / "base", np.zeros(30)), "better": write_set(tmp_path / "better", gain)}
    content = leaderboard.table(leaderboard.by_metric(sets, "gold", 0.02), "gold")
    (row,) = [row for row in content["pairs"] if row["first"] == "better"]
    compared = paired_tests.win_rate(pairs.paired(*map(result.read_samples, sets.values())))
    assert (row["value"], row["low"], row["high"]) == pytest.approx([compared[key] for key in ("b", "low", "high")])
    alone = stats.wilson(row["wins"], row["ties"], row["n"])
    assert row["high"] - row["low"] > 1.2 * (alone.high - alone.low)


def test_a_leaderboard_of_sets_counts_ties_and_pairs_by_prompt_and_seed(tmp_path: Path) -> None:
    base = np.linspace(0.2, 0.6, 12)
    sets = {
        "base": write_set(tmp_path / "base", base),
        "same": write_set(tmp_path / "same", base + 0.01),
        "better": write_set(tmp_path / "better", base + 0.2),
    }
    content = leaderboard.table(leaderboard.by_metric(sets, "gold", 0.02), "gold")
    assert content["standings"][0]["player"] == "better" and content["comparable"]
    pairs = {(row["first"], row["second"]): row for row in content["pairs"]}
    assert (pairs["same", "base"]["ties"], pairs["same", "base"]["value"]) == (12, 0.5)
    assert (pairs["better", "base"]["wins"], pairs["base", "better"]["value"]) == (12, 0.0)
    assert pairs["better", "base"]["low"] < 1 == pairs["better", "base"]["high"]
    json.dumps(content, allow_nan=False)


def test_values_of_one_metric_are_those_of_the_lines_also_where_a_line_is_half_written(tmp_path: Path) -> None:
    rows = [
        {"id": "0", "prompt": 'a "red" ball \u2192 caf\u00e9', "seed": 0, "gold": 1, "reasons": {"cuts": "short"}},
        {"id": "1", "prompt": "b", "seed": None, "gold": 0.25, "objects": [{"x": 1}, {"y": None}]},
        {"id": "2", "prompt": "b", "gold": None},
        {"id": "3", "prompt": "b", "seed": 7},
    ]
    result.write_samples(tmp_path, rows)
    expected = [(row["prompt"], row.get("seed"), row.get("gold")) for row in rows]
    assert result.read_values(tmp_path, "gold") == expected
    with (tmp_path / result.SAMPLES).open("a") as file:
        file.write('{"id": "4", "prom')
    assert result.read_values(tmp_path, "gold") == expected
    (tmp_path / result.SAMPLES).write_text('{"id": "0", "prompt": "a"}\n{"id": \n{"id": "1", "prompt": "b"}\n')
    with pytest.raises(UserError, match=r"samples\.jsonl:2: not JSON"):
        result.read_values(tmp_path, "gold")
    for wrong in ('{"id": "0", "gold": 1}', '{"id": "0", "prompt": "a", "seed": []}', '{"id": "0", "prompt": ["a"]}'):
        (tmp_path / result.SAMPLES).write_text(f"{wrong}\n")
        with pytest.raises(UserError, match="entry 1 has no id, prompt and seed"):
            result.read_values(tmp_path, "gold")
    (tmp_path / result.SAMPLES).unlink()
    with pytest.raises(UserError, match="soralign eval"):
        result.read_values(tmp_path, "gold")


def test_where_lower_is_better_the_lower_wins(tmp_path: Path) -> None:
    sets = {
        name: write_set(tmp_path / name, np.full(4, value), "warping_error[dis]", higher=False)
        for name, value in (("low", 0.1), ("high", 0.9))
    }
    content = leaderboard.table(leaderboard.by_metric(sets, "warping_error[dis]", 0.0), "x")
    assert content["standings"][0]["player"] == "low"
    with pytest.raises(UserError, match="soralign eval"):
        leaderboard.by_metric(sets, "gold", 0.0)


def test_models_that_never_met_are_said_not_to_be_comparable() -> None:
    met = Meetings.of([("a", "b", 1.0, "p"), ("c", "d", 0.0, "q"), ("a", "b", 0.0, "r")])
    content = leaderboard.table(met, "votes")
    assert not content["comparable"] and sorted(map(sorted, content["groups"])) == [["a", "b"], ["c", "d"]]
    assert any("never met" in line for line in leaderboard.summary(content))
    pairs = {(row["first"], row["second"]): row for row in content["pairs"]}
    assert pairs["a", "c"]["value"] is None and pairs["a", "b"]["value"] == 0.5 and pairs["d", "c"]["wins"] == 1
    with pytest.raises(UserError, match="no two models"):
        leaderboard.table(Meetings.of([]), "votes")


def test_a_set_of_other_prompts_is_named_and_left_out(tmp_path: Path) -> None:
    sets = {name: write_set(tmp_path / name, np.linspace(0, 1, 6)) for name in ("one", "two", "other")}
    rows = [row | {"prompt": "another"} for row in result.read_samples(sets["other"])]
    result.write_samples(sets["other"], [row | {"seed": 90 + n} for n, row in enumerate(rows)])
    content = leaderboard.table(leaderboard.by_metric(sets, "gold", 0.0), "gold")
    assert content["left_out"] == ["other"] and [one["player"] for one in content["standings"]] == ["one", "two"]
    assert any("left out" in line and "other" in line for line in leaderboard.summary(content))
    assert [name for name, _ in leaderboard.matrix(content)] == ["one", "two"]
    assert leaderboard.matrix(content)[0][1][0] is None


@pytest.mark.parametrize("project", [None, "second"])
def test_votes_rank_the_models_that_made_the_videos(tmp_path: Path, clip: np.ndarray, project: str | None) -> None:
    from core import video

    store = Store(tmp_path / "store.db")
    store = store.add_project(project, store.aspects) if project else store
    for index in range(6):
        ids = []
        for model in ("base", "aligned"):
            path = tmp_path / f"{model}{index}.mp4"
            video.write(path, clip * (0.5 + 0.08 * index + 0.02 * (model == "base")), 8.0)
            ids.append(store.add_video(path, model=model, seed=index))
        pair = store.add_pair(f"prompt {index}", *ids)
        store.record_vote(pair, "ada", "overall", "tie" if index == 5 else "b" if index else "a")
    words = ["leaderboard", "--store", str(tmp_path / "store.db"), "--out", str(tmp_path / "board.json")]
    assert cli.main([*words, *(("--project", project) if project else ())]) == 0
    content = json.loads((tmp_path / "board.json").read_text())
    (row,) = [row for row in content["pairs"] if row["first"] == "aligned"]
    assert (row["wins"], row["ties"], row["losses"]) == (4, 1, 1)
    with pytest.raises(UserError, match="taste"):
        leaderboard.by_votes(store, "taste")


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(0)
    proxy, gold = rng.integers(0, 3, size=5).astype(float), rng.random(5)  # with ties
    brute = []
    for subset in itertools.combinations(range(5), n):
        best = max(proxy[list(subset)])
        winners = [index for index in subset if proxy[index] == best]
        brute.append(gold[winners].mean())
    assert best_of_n.expected(proxy, gold, n) == pytest.approx(np.mean(brute))


def test_a_gamed_proxy_shows_as_a_gold_that_falls_again() -> None:
    rng, rows = np.random.default_rng(0), []
    for prompt in range(60):
        for seed in range(8):
            quality = rng.normal()
            hack = 6.0 if rng.random() < 0.08 else 0.0  # rare, loved by the proxy, bad
            rows.append(
                {"prompt": str(prompt), "seed": seed, "proxy": quality + hack, "gold": quality - hack, "reasons": {}}
            )
    points = best_of_n.curve(rows, "proxy", "gold")
    gold = [point["gold"]["value"] for point in points]
    assert [point["proxy"]["value"] for point in points] == sorted(point["proxy"]["value"] for point in points)
    assert gold[1] > gold[-1] and points[3]["kl"] == pytest.approx(math.log(4) - 0.75)
    assert all(point["gold"]["low"] <= point["gold"]["value"] <= point["gold"]["high"] for point in points)
    assert {point["num_prompts"] for point in points} == {60}
    with pytest.raises(UserError, match="more seeds"):
        best_of_n.curve(rows[:1], "proxy", "gold")


def test_a_prompt_with_a_broken_video_does_not_shorten_the_curve_of_the_others() -> None:
    rows = [{"prompt": prompt, "proxy": seed, "gold": seed} for prompt in "abc" for seed in range(4)]
    rows += [{"prompt": "", "proxy": 0, "gold": 0}] * 9  # of no prompt, so no seeds of one
    rows[0] |= {"proxy": None}
    points = best_of_n.curve(rows, "proxy", "gold")
    assert [point["n"] for point in points] == [1, 2, 3, 4] and points[0]["num_prompts"] == 2
    assert points[0]["gold"]["value"] == 1.5 and points[3]["gold"]["value"] == 3


def test_the_shipped_suites_are_prompts_of_the_sandbox_that_do_what_their_name_says() -> None:
    known = suite.shipped()
    assert list(known) == ["attributes", "counting", "motion", "physics", "composition", "unseen"]
    for name, texts in known.items():
        assert len(set(texts)) == len(texts) == suite.PER_SUITE, name
        assert all(parse(text) is not None for text in texts), name
    counts = [len(spec.objects) for text in known["counting"] if (spec := parse(text)) is not None]
    assert counts == [1] * 8 + [2] * 8 + [3] * 8
    assert len({spec.family for text in known["motion"] if (spec := parse(text)) is not None}) >= 6
    assert all(len(spec.objects) == 2 for text in known["composition"] if (spec := parse(text)) is not None)


def test_published_lists_are_read_by_path(tmp_path: Path) -> None:
    vbench = [{"prompt_en": "a dog", "dimension": ["subject_consistency", "dynamic_degree"]}, {"prompt_en": "a cat"}]
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(vbench))
    (tmp_path / "videophy.csv").write_text('caption,states_of_matter\n"water, poured",fluid_fluid\n')
    (tmp_path / "motion_binding.txt").write_text("a ball rolls left\n\na cat jumps\n")
    (tmp_path / "own.jsonl").write_text('{"prompt": "x", "group": "g"}\n"y"\n')
    (tmp_path / "mine.json").write_text(json.dumps({"easy": ["one"], "hard": ["two", "three"]}))

    def read(name: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(prompt.text, prompt.groups) for prompt in suite.read(str(tmp_path / name))]

    assert read("VBench_full_info.json")[0] == ("a dog", ("subject_consistency", "dynamic_degree"))
    assert read("VBench_full_info.json")[1] == ("a cat", ("VBench_full_info",))
    assert read("videophy.csv") == [("water, poured", ("fluid_fluid",))]
    assert read("motion_binding.txt") == [
        ("a ball rolls left", ("motion_binding",)),
        ("a cat jumps", ("motion_binding",)),
    ]
    assert read("own.jsonl") == [("x", ("g",)), ("y", ("own",))]
    (tmp_path / "windows.csv").write_bytes('\ufeffcaption,action\r\n"a dog\r\nruns",run\r\n'.encode())
    assert read("windows.csv") == [("a dog\nruns", ("run",))]
    assert suite.groups(suite.read(str(tmp_path / "mine.json")))["three"] == ("hard",)
    (tmp_path / "empty.json").write_text("[{}]")
    (tmp_path / "broken.json").write_text("[{")
    for name in ("empty.json", "broken.json"):
        with pytest.raises(UserError, match=name):
            suite.read(str(tmp_path / name))
    with pytest.raises(UserError, match="did you mean"):
        suite.read("phisics")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_set(tmp_path / "one", np.linspace(0, 0.5, 8))
    two = write_set(tmp_path / "two", np.linspace(0.1, 0.9, 8))
    board = str(tmp_path / "board.json")
    assert cli.main(["leaderboard", str(one), str(two), "--out", board]) == 0
    assert json.loads(Path(board).read_text())["standings"][0]["player"] == "two"
    assert cli.main(["leaderboard", str(one)]) == 2 and "two or more" in capsys.readouterr().err
    assert cli.main(["leaderboard", str(one), str(one)]) == 2
    assert cli.main(["best-of-n", str(one), "--proxy", "gold"]) == 0
    assert json.loads((one / "best_of_n.json").read_text())["best_n"] == 2
    assert cli.main(["best-of-n", str(one), "--proxy", "clip_sim[sandbox]"]) == 2
    assert cli.main(["suite", "counting", "--out", str(tmp_path / "prompts.txt")]) == 0
    assert len((tmp_path / "prompts.txt").read_text().splitlines()) == suite.PER_SUITE
    assert cli.main(["suite", "all", "--groups", "motoin"]) == 2 and "motion" in capsys.readouterr().err
