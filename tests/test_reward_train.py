"""Votes to a reward: it learns an order-sensitive taste, splits by prompt, repeats, and refuses what cannot teach."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from reward_examples import batch, fill_store, ordered_and_shuffled, tiny_clip

from core.errors import UserError
from core.preferences import Store, Vote
from reward import preference_model, train
from reward.backbone import SandboxBackbone
from reward.bradley_terry import TIE, A, B
from reward.examples import Examples, examples, split
from reward.report import summary, worst_errors
from reward.train_config import TrainConfig

WRONG = [("epochs", 0), ("num_heads", 0), ("guard_weight", -0.1), ("learning_rate", -1.0), ("held_out_share", 0.0)]
QUICK = TrainConfig(num_heads=2, epochs=2)


def _eyes() -> SandboxBackbone:
    return SandboxBackbone(tiny_clip())


def _vote(pair: int, choice: str, aspect: str = "overall", annotator: str = "one", prompt: str | None = None) -> Vote:
    videos = Path(f"{pair}a.mp4"), Path(f"{pair}b.mp4")
    return Vote(pair, prompt or f"prompt {pair}", *videos, annotator, aspect, choice, 0.0, None)


def test_learns_that_ordered_frames_are_better_than_shuffled_ones() -> None:
    clips = ordered_and_shuffled(60)
    pair = torch.tensor([[2 * i, 2 * i + 1] if i % 2 else [2 * i + 1, 2 * i] for i in range(60)])
    votes = torch.zeros(60, 1, 3)
    for i in range(60):
        votes[i, 0, A if i % 2 else B] = 1
    prompts = tuple(prompt for prompt, _, _ in clips for _ in range(2))
    data = Examples(tuple(Path(str(i)) for i in range(120)), prompts, pair, votes, ("overall",))
    eyes = _eyes()
    features = eyes.features(batch([frames for _, right, wrong in clips for frames in (right, wrong)]), prompts)
    config = TrainConfig(num_heads=1, epochs=20, batch_pairs=16)
    parts = split(data.pair_prompts, config)
    report = train.judge(train.fit(features, data, parts, eyes, config), features, data, parts, config)
    found = report["aspects"]["overall"]
    assert found["accuracy"]["value"] >= 0.9
    assert found["accuracy"]["n"] == 12 and found["random"] == 0.5


def test_guards_teach_that_a_frozen_copy_is_worse_though_no_vote_says_so(tmp_path: Path) -> None:
    store, eyes = fill_store(tmp_path), _eyes()
    _, right, _ = ordered_and_shuffled(1)[0]
    frames = batch([right, right])
    frames[1] = frames[1, :1]
    gap = {}
    for weight in (0.0, 1.0):
        config = dataclasses.replace(QUICK, epochs=20, guard_weight=weight)
        moving, frozen = train.train(store, eyes, config)[0](frames, ["a red ball moves 0"] * 2).total.tolist()
        gap[weight] = moving - frozen
    assert gap[1.0] > max(0.0, gap[0.0])


def test_votes_of_several_people_become_shares_and_skips_are_not_asked() -> None:
    votes = [_vote(1, "a"), _vote(1, "b", annotator="two"), _vote(1, "a", annotator="three")]
    votes += [_vote(2, "both_bad"), _vote(2, "skip", "motion_quality"), _vote(3, "b", "motion_quality")]
    data = examples(votes, reliability=False)
    assert data.aspects == ("motion_quality", "overall")
    assert data.votes[0, 1, A] == pytest.approx(2 / 3) and data.votes[0, 1, B] == pytest.approx(1 / 3)
    assert data.votes[1, 1, TIE] == 1 and data.votes[1, 0].sum() == 0
    assert data.votes[2, 0, B] == 1 and len(data.videos) == 6


def test_who_agrees_with_nobody_counts_less() -> None:
    votes = [_vote(pair, "ab"[pair % 2], annotator=name) for pair in range(40) for name in ("one", "two")]
    votes += [_vote(pair, "ab"[pair // 2 % 2], annotator="careless") for pair in range(40)]
    counted, weighed = (examples(votes, reliability=flag).votes[1, 0] for flag in (False, True))
    assert counted[B] == pytest.approx(2 / 3)
    assert weighed[B] > 0.9 and weighed.sum() == pytest.approx(1)
    alone = examples([vote for vote in votes if vote.annotator == "one"]).votes
    assert set(alone.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("loss", ["davidson", "bradley_terry", "margin"])
def test_every_model_of_votes_learns_the_planted_preference(loss: str) -> None:
    features = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    pair = torch.arange(80).view(40, 2)
    wins = features[pair[:, 0], 0] > features[pair[:, 1], 0]
    votes = torch.nn.functional.one_hot(torch.where(wins, A, B), 3).float().unsqueeze(1)
    prompts = tuple(f"prompt {index // 4}" for index in range(80))
    data = Examples(tuple(Path(str(i)) for i in range(80)), prompts, pair, votes, ("overall",))
    config = TrainConfig(num_heads=1, epochs=20, batch_pairs=8, loss=loss)  # type: ignore[arg-type]
    parts = split(data.pair_prompts, config)
    model = train.fit(features, data, parts, _eyes(), config)
    utility = model.utilities(features).mean(0)[:, 0]
    assert ((utility[pair[:, 0]] > utility[pair[:, 1]]) == wins).float().mean() > 0.85


def test_a_pair_of_evenly_split_votes_is_a_tie_whichever_video_is_called_a() -> None:
    rounds = ("aab", "bba", "ab", "ba", ("a", "tie"), ("b", "tie"), "abb", ("tie", "tie", "a"))
    data = examples([_vote(pair, choice) for pair, given in enumerate(rounds) for choice in given], reliability=False)
    assert data.choices[:, -1].tolist() == [A, B, TIE, TIE, TIE, TIE, B, TIE]


def test_the_worst_errors_are_held_out_votes_that_the_model_surely_contradicts() -> None:
    data = examples([_vote(pair, choice) for pair, choice in enumerate(("a", "b", "tie", "a"))])
    chances = torch.tensor([[0.1, 0.1, 0.8], [0.5, 0.2, 0.3], [0.9, 0.05, 0.05], [0.6, 0.1, 0.3]])
    found = worst_errors(chances, data, torch.tensor([0, 1, 2, 3]))
    named = [(one["prompt"], one["liked"], one["refused"]) for one in found]
    assert named == [("prompt 0", "0a.mp4", "0b.mp4"), ("prompt 1", "1b.mp4", "1a.mp4")]
    assert found[0]["confidence"] == pytest.approx(8 / 9)
    assert worst_errors(chances, data, torch.tensor([3])) == []


def test_no_prompt_is_on_two_sides_of_the_split() -> None:
    prompts = [f"prompt {i % 20}" for i in range(100)]
    parts = split(prompts, QUICK)
    sides = [{prompts[row] for row in part.tolist()} for part in parts]
    assert sum(map(len, sides)) == 20 and len(set.union(*sides)) == 20
    assert sum(map(len, parts)) == 100
    assert [len(side) for side in sides] == [13, 3, 4]


def test_training_from_a_store_writes_a_folder_that_scores_alike(tmp_path: Path) -> None:
    store, eyes = fill_store(tmp_path), _eyes()
    model, report = train.train(store, eyes, dataclasses.replace(QUICK, learning_curve=True), tmp_path / "reward")
    again = preference_model.load(tmp_path / "reward", tiny_clip())
    _, right, wrong = ordered_and_shuffled(1)[0]
    frames, prompts = batch([right, wrong]), ["a red ball moves 0"] * 2
    assert torch.equal(model(frames, prompts).total, again(frames, prompts).total)
    written = json.loads((tmp_path / "reward" / "report.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert written["num_pairs"] == {"training": 8, "calibration": 2, "held_out": 2}
    assert [point["num_pairs"] for point in written["learning_curve"]] == [1, 2, 4]
    assert written["learning_curve"][2]["accuracy"]["n"] == 2
    assert "overall" in summary(report) and "of 4 pairs" in summary(report)


def test_the_same_seed_gives_the_same_reward_and_another_seed_another(tmp_path: Path) -> None:
    store, eyes = fill_store(tmp_path), _eyes()
    first, second, other = (
        train.train(store, eyes, dataclasses.replace(QUICK, seed=seed))[0].version for seed in (0, 0, 1)
    )
    assert first == second != other


def test_scores_of_the_training_videos_are_normalised(tmp_path: Path) -> None:
    store, eyes = fill_store(tmp_path), _eyes()
    data = examples(store.votes())
    features = train.decode(data.videos, data.prompts, eyes.features)
    parts = split(data.pair_prompts, QUICK)
    model = train.fit(features, data, parts, eyes, QUICK)
    scores = model.normalised(features[data.pair[parts[0]].unique()]).mean(0)
    torch.testing.assert_close(scores.mean(0), torch.zeros(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.std(0, correction=0), torch.ones(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("votes", "line"),
    [
        ([], "no vote to learn from among 0"),
        ([_vote(1, "skip")], "no vote to learn from among 1"),
        ([_vote(i, "tie") for i in range(9)], "all 9 pairs are ties"),
        ([_vote(i, "a") for i in range(4)], "4 prompts cannot be split"),
        ([_vote(i, "a", prompt=f"{i % 2}") for i in range(20)], "2 prompts cannot be split"),
        ([_vote(i, "ab"[i % 2]) for i in range(9)], "0a.mp4"),
    ],
    ids=["empty", "skips", "ties", "few prompts", "few prompts many pairs", "missing video"],
)
def test_votes_that_cannot_teach_are_refused_in_one_line(votes: list[Vote], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        train.train(votes, _eyes(), QUICK)
    assert "\n" not in str(error.value)


def test_votes_for_one_side_only_still_train_and_say_that_majority_does_as_well(tmp_path: Path) -> None:
    store = fill_store(tmp_path)
    votes = [dataclasses.replace(vote, choice="a") for vote in store.votes()]
    _, report = train.train(votes, _eyes(), QUICK)
    assert report["aspects"]["overall"]["majority"] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"guard_weight": -0.1},
        {"num_heads": 0},
        {"learning_rate": -1.0},
        {"held_out_share": 0.0},
        {"held_out_share": 0.9},
        {"margin": -1.0},
        {"loss": "hinge"},
        {"aggregation": "best"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type]


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label some"):
        train.train(Store(tmp_path / "empty.db"), _eyes(), QUICK)
