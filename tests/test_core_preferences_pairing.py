"""Drawing pairs: exact probabilities, more where the models are torn, never only there."""

import json
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


def test_every_head_of_a_reward_is_a_member(tmp_path):
    lines = [{"id": item.id, "prompt": item.prompt, "total": 0, "heads": [n, -n * n]} for n, item in enumerate(ITEMS)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "heads.jsonl").write_text(text)
    gaps = pairing.gaps_from_files(PAIRS, [tmp_path / "heads.jsonl"])
    assert gaps.shape == (2, len(PAIRS)) and (gaps[0] < 0).all() and (gaps[1] > 0).all()
    (tmp_path / "mixed.jsonl").write_text(text + '{"id": "other", "prompt": "x", "total": 1}\n')
    with pytest.raises(UserError, match="several rewards"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "mixed.jsonl"])


def test_scores_are_read_one_file_a_model(tmp_path):
    for member in range(2):
        lines = [
            {"id": item.id, "prompt": item.prompt, "total": index * (member + 1)} for index, item in enumerate(ITEMS)
        ]
        (tmp_path / f"{member}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    gaps = pairing.gaps_from_files(PAIRS, [tmp_path / "0.jsonl", tmp_path / "1.jsonl"])
    assert gaps.shape == (2, len(PAIRS)) and gaps[0] == pytest.approx(gaps[1]) and (gaps < 0).all()
    (tmp_path / "short.jsonl").write_text('{"id": "v0", "prompt": "prompt 0", "total": null}\n')
    with pytest.raises(UserError, match="no score for video 'v0'"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "short.jsonl"])
    with pytest.raises(UserError, match="reward score"):
        pairing.gaps_from_files(PAIRS, [tmp_path / "none.jsonl"])
    with pytest.raises(UserError, match="uniform share"):
        pairing.draw_active(PAIRS, gaps, 3, 0, uniform_share=0.1)
