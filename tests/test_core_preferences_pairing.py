"""Drawing pairs: exact probabilities, more where the models are torn, never only there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import preferences_pairing as pairing
from core.errors import UserError
from core.videoset import VideoItem

ITEMS = [VideoItem(f"v{index}", Path(f"v{index}.mp4"), f"prompt {index // 4}") for index in range(16)]
PAIRS = pairing.pairs_of([ITEMS])


def test_pairs_share_a_prompt_and_cross_sets():
    assert len(PAIRS) == 4 * 6 and all(a.prompt == b.prompt for a, b in PAIRS)
    assert len(pairing.pairs_of([ITEMS[:8], ITEMS[:8]])) == 2 * 16


def test_a_torn_ensemble_teaches_most_and_a_sure_one_least():
    torn, agreed_even, sure = pairing.information(np.array([[4.0, 0.0, 5.0], [-4.0, 0.0, 5.0]]))
    assert torn > agreed_even > sure
    assert agreed_even == pytest.approx(np.log(2))  # a coin both call a coin: its entropy, no disagreement


def test_each_pair_is_drawn_with_the_probability_it_is_given():
    gaps = np.random.default_rng(0).normal(size=(3, len(PAIRS))) * 3
    hits, said = np.zeros(len(PAIRS)), np.zeros(len(PAIRS))
    for seed in range(2000):
        chosen, probability = pairing.draw_active(PAIRS, gaps, 6, seed, uniform_share=0.25)
        assert len(chosen) == 6
        for pair, p in zip(chosen, probability, strict=True):
            hits[PAIRS.index(pair)] += 1
            said[PAIRS.index(pair)] = p
    np.testing.assert_allclose(hits / 2000, said, atol=0.05)
    assert said.min() >= 0.25 * 6 / len(PAIRS) and said.sum() == pytest.approx(6)
    assert np.corrcoef(said, pairing.information(gaps))[0, 1] > 0.95


def test_a_weighted_mean_over_drawn_pairs_is_the_mean_over_all():
    generator = np.random.default_rng(1)
    gaps, truth = generator.normal(size=(2, len(PAIRS))), generator.random(len(PAIRS))
    estimates = []
    for seed in range(1500):
        chosen, probability = pairing.draw_active(PAIRS, gaps, 8, seed)
        estimates.append(sum(truth[PAIRS.index(c)] / p for c, p in zip(chosen, probability, strict=True)) / len(PAIRS))
    assert np.mean(estimates) == pytest.approx(truth.mean(), abs=0.01)


def test_all_pairs_can_be_drawn_and_uniform_means_uniform():
    chosen, probability = pairing.draw_uniform(PAIRS, len(PAIRS), 0)
    assert chosen == PAIRS and set(probability) == {1.0}
    assert set(pairing.draw_uniform(PAIRS, 6, 0)[1]) == {0.25}
    chosen, probability = pairing.draw_active(PAIRS, np.zeros((1, len(PAIRS))), len(PAIRS), 0)
    assert chosen == PAIRS and probability == pytest.approx([1.0] * len(PAIRS))


def _scored(path, reward, items, score):
    """A file of `soralign reward score`: of `score(number)` a head each, or the total."""
    lines = []
    for number, item in enumerate(items):
        line = {"video": str(item.video), "prompt": item.prompt, "reward": reward, "total": score(number)}
        lines.append(json.dumps(line | ({"heads": line["total"]} if isinstance(line["total"], list) else {})) + "\n")
    path.write_text("".join(lines))
    return path


def test_every_head_of_a_reward_is_a_member(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heads = _scored(tmp_path / "heads.jsonl", "preference 2", ITEMS, lambda n: [n, -n * n])
    gaps = pairing.gaps_from_files(PAIRS, [heads])
    assert gaps.shape == (2, len(PAIRS)) and (gaps[0] < 0).all() and (gaps[1] > 0).all()
    with pytest.raises(UserError, match="different numbers of heads"):
        more = _scored(tmp_path / "more.jsonl", "preference 2", ITEMS[:1], lambda n: 1.0)
        pairing.gaps_from_files(PAIRS, [heads, more])


def test_sets_whose_videos_share_ids_keep_their_own_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = [replace(item, video=Path("aligned") / item.video) for item in ITEMS]
    pairs = pairing.pairs_of([ITEMS, other])
    base = _scored(tmp_path / "base.jsonl", "motion 1", ITEMS, lambda n: n % 4)
    aligned = _scored(tmp_path / "aligned.jsonl", "motion 1", other, lambda n: n % 4 + 4)
    gaps = pairing.gaps_from_files(pairs, [base, aligned])
    assert gaps.shape == (1, len(pairs)) and (gaps < 0).all()
    with pytest.raises(UserError, match=r"no score of 'motion 1' for aligned/v0\.mp4"):
        pairing.gaps_from_files(pairs, [base])


def test_scores_are_read_one_reward_a_member(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [_scored(tmp_path / f"{k}.jsonl", f"r{k}", ITEMS, lambda n, k=k: n * (k + 1)) for k in range(2)]
    gaps = pairing.gaps_from_files(PAIRS, paths)
    assert gaps.shape == (2, len(PAIRS)) and gaps[0] == pytest.approx(gaps[1]) and (gaps < 0).all()
    with pytest.raises(UserError, match=r"no score of 'r' for v0\.mp4"):
        pairing.gaps_from_files(PAIRS, [_scored(tmp_path / "short.jsonl", "r", ITEMS[:1], lambda n: None)])
    (tmp_path / "other.jsonl").write_text('{"id": "v0", "prompt": "prompt 0", "total": 1}\n')
    with pytest.raises(UserError, match="row 1 is not of `soralign reward score`"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "other.jsonl"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no score in"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "empty.jsonl"])
    with pytest.raises(UserError, match="no such score file"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "none.jsonl"])
    with pytest.raises(UserError, match="uniform share"):
        pairing.draw_active(PAIRS, gaps, 3, 0, uniform_share=0.1)
