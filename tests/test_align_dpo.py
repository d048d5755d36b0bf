"""DPO: closed form of the loss, online on the toy generator, offline from a preference store on the nano model."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align import objectives
from align.advantages import best_and_worst
from align.dpo import DPO, choices
from align.train import TrainConfig, train
from base_model import flow, lora, native
from core import video
from core.cli import main
from core.errors import UserError
from core.preferences import Store
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=20, prompts_per_step=4, batch=32, denoising_steps=6, learning_rate=1e-2, passes=2, sample_every=0
)
TOY = DPO(beta=1.0, levels=4)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Six pairs of a white and a black clip, preferred by two of three; one even pair, one skipped."""
    rng = torch.Generator().manual_seed(0)
    opened = Store(tmp_path / "preferences.db")
    for pair in range(8):
        ids = []
        for name, level in (("white", 0.8), ("black", 0.2)):
            frames = level + 0.1 * torch.rand(5, 3, 32, 32, generator=rng)
            video.write(tmp_path / f"{pair}-{name}.mp4", frames.numpy(), fps=8)
            ids.append(opened.add_video(tmp_path / f"{pair}-{name}.mp4"))
        number = opened.add_pair("light" if pair % 2 else "day", *ids, target_votes=3)
        given = {6: ("a", "b"), 7: ("skip",)}.get(pair, ("a", "tie", "a"))
        for annotator, choice in enumerate(given):
            opened.record_vote(number, str(annotator), "overall", choice)
    return str(tmp_path / "preferences.db")


def test_loss_and_gradient_at_the_reference_are_the_closed_form() -> None:
    chosen, rejected = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    share, beta = torch.tensor([1.0, 0.75, 0.5]), 40.0
    loss = objectives.preference_loss(chosen, rejected, share, beta)
    torch.testing.assert_close(loss.detach(), torch.full((3,), math.log(2)))
    better, worse = torch.autograd.grad(loss.sum(), (chosen, rejected))
    torch.testing.assert_close(better, 0.5 * beta * (share - 0.5))
    torch.testing.assert_close(worse, -better)


def test_loss_is_minus_log_of_the_bradley_terry_chance() -> None:
    chosen, rejected = torch.tensor([0.3]), torch.tensor([0.7])
    loss = objectives.preference_loss(chosen, rejected, torch.ones(1), beta=5.0)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-0.5 * 5.0 * 0.4)))
    # With shares the minimum lies where the model's chance is the share.
    margin = torch.tensor([math.log(3.0)], requires_grad=True)
    (slope,) = torch.autograd.grad(
        objectives.preference_loss(torch.zeros(1), margin, torch.tensor([0.75]), beta=2.0), margin
    )
    assert abs(float(slope)) < 1e-6


def test_best_and_worst_leaves_out_the_middle_and_what_has_no_reward() -> None:
    value = torch.tensor([0.5, -2.0, 1.5, 0.0, -0.1, 0.2, 0.0, -0.1])
    assert best_and_worst(value, 4, best=1, worst=1).tolist() == [2, 1, 5, 7]
    assert best_and_worst(value, 4, best=2, worst=1).tolist() == [2, 0, 1, 5, 6, 7]
    assert best_and_worst(value, 4, best=1, worst=0).tolist() == [2, 5]


def test_online_raises_brightness_toward_its_optimum(tmp_path: Path) -> None:
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    brightness = [row["reward/total"] for row in rows]
    assert abs(brightness[0] - 0.5) < 0.05
    assert sum(brightness[-3:]) / 3 > 0.75
    assert rows[0]["samples"] == 32  # all that were drawn, not the two of every group that teach
    assert rows[0]["align/loss"] == pytest.approx(math.log(2), abs=0.01)  # the first of two updates is at the reference


def test_a_pair_has_one_noise_and_stands_side_by_side() -> None:
    policy = toy_policy()
    experience = TOY.collect(policy, Brightness(), PROMPTS, seed=0, step=0)
    clean, sigma = experience.trajectory.latents, policy.schedule.at(experience.trajectory.steps)[0].float()
    assert clean.shape[0] == 8 and experience.advantage.tolist() == [1.0, -1.0] * 4
    bright = policy.generator.decode(clean).flatten(1).mean(1)
    assert (bright[::2] > bright[1::2]).all()
    for index, level in enumerate(sigma):
        noise = (experience.trajectory.before[:, index] - (1 - level) * clean) / level
        torch.testing.assert_close(noise[::2], noise[1::2])
        assert not torch.allclose(noise[0], noise[2])
    part = next(iter(experience.parts(8, 0, 1)))
    torch.testing.assert_close(flow.interpolate(part.clean, noise[:8], sigma[-1]), experience.trajectory.before[:, -1])


def test_offline_learns_what_the_votes_say_and_repeats_itself(tmp_path: Path, store: str) -> None:
    config = replace(QUICK, steps=8, learning_rate=3e-3, batch=16, passes=1)
    algorithm = DPO(store=store, pairs_per_step=4, beta=100.0)
    ends = []
    for name in ("one", "two"):
        generator = native.nano()
        run = train(generator, Brightness(), algorithm, PROMPTS, config, tmp_path / name)
        ends.append([value.detach() for value in lora.parameters(generator.policy_module())])
    rows = read_metrics(run.folder)
    assert rows[0]["samples"] == 0 and rows[0]["align/loss"] == pytest.approx(math.log(2))
    assert sum(row["align/preference_accuracy"] for row in rows[-3:]) / 3 > 0.8
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_command_learns_from_votes_without_a_reward_and_a_judge_may_watch(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("light\nday\n")
    words = (
        f"align dpo --model nano --prompts {tmp_path}/prompts.txt --out {tmp_path}/run --denoising-steps 4 --batch 4"
    )
    assert main(words.split()) == 2
    assert "--reward is missing; only `dpo --store`" in capsys.readouterr().err
    words += f" --store {store} --steps 6 --pairs-per-step 4 --judge brightness --judge-clips 2 --judge-every 6"
    words += " --num-frames 5 --height 32 --width 32 --sample-every 0 --learning-rate 1e-3"
    assert main([*words.split(), "--judge-prompts", f"{tmp_path}/prompts.txt"]) == 0
    last = read_metrics(tmp_path / "run")[-1]
    assert last["judge/brightness"] > 0 and last["judge/trained_reward"] is None and "reward/total" not in last
    capsys.readouterr()
    assert main(["align", "diagnose", f"{tmp_path}/run"]) == 0
    assert "agreement with the votes" in capsys.readouterr().out


def test_divided_votes_become_shares(store: str) -> None:
    found = choices(store, None, "overall")
    assert len(found) == 6 and all("white" in pair.chosen.name and "black" in pair.rejected.name for pair in found)
    assert {round(pair.share, 4) for pair in found} == {round(2.5 / 3, 4)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"store": "absent.db"}, "store 'absent.db' does not exist"),
        ({"store": "STORE", "project": "second"}, "second"),
        ({"store": "STORE", "aspect": "taste"}, "aspect 'taste' is not asked"),
        ({"store": "STORE", "aspect": "motion_quality"}, "no pair on which"),
        ({"store": "STORE", "pairs_per_step": 0}, "pairs_per_step 0"),
        ({"store": "STORE"}, r"shape \[5, 3, 32, 32\], this generator makes \[1, 3, 2, 2\]"),
        ({"group_size": 1}, "group_size 1"),
        ({"beta": 0.0}, "beta 0.0"),
        ({"levels": 7}, "levels 7 must be in 1..6"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, store: str, changes: dict[str, object], told: str) -> None:
    changes = {name: store if value == "STORE" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]


def test_a_batch_that_parts_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch 7 would part a pair"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(QUICK, batch=7), tmp_path / "run")
