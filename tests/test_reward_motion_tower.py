"""The motion tower: what it is taught, what it tells apart, and that it is kept."""

import dataclasses
from pathlib import Path

import pytest
import torch

from base_model.world import dataset
from base_model.world.caption import caption
from core.randomness import seed_for
from reward import motion_lessons, motion_tower
from reward.moments import moments
from reward.motion_lessons import Lessons, bent
from reward.motion_tower import PLACE, MotionTower, grey_grid

FEW = Lessons("", num_clips=16, steps=60, batch=16, noise=0.0)


def _clips(count: int = 24) -> tuple[torch.Tensor, list[dataset.Clip]]:
    """Clips of the simulator that the shipped tower has not been taught on."""
    clips = [dataset.make_clip(11, index, split="heldout", most_objects=1) for index in range(count)]
    return torch.stack([torch.from_numpy(clip.frames) for clip in clips]), clips


def _features(tower: MotionTower, frames: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return tower.features(*moments(frames), grey_grid(frames), prompts)


def test_the_shipped_tower_prefers_the_right_family_and_direction_to_wrong_ones() -> None:
    frames, clips = _clips()
    tower = motion_tower.load()
    right = _features(tower, frames, [caption(clip.spec) for clip in clips])[:, 0]
    others = {"uniform": "bounce"}
    family = [dataclasses.replace(c.spec, family=others.get(c.spec.family, "uniform"), direction=None) for c in clips]
    assert (right > _features(tower, frames, [caption(spec) for spec in family])[:, 0]).float().mean() >= 0.9
    ways = {"left": "right", "right": "left", "up": "down", "down": "up"}
    directed = [number for number, clip in enumerate(clips) if clip.spec.direction]
    turned = [
        caption(dataclasses.replace(clips[n].spec, direction=ways[str(clips[n].spec.direction)]))  # type: ignore[arg-type]
        for n in directed
    ]
    wrong = _features(tower, frames[directed], turned)[:, 0]
    assert (right[directed] > wrong).float().mean() >= 0.9


def test_the_shipped_tower_finds_jumping_things_less_lawful() -> None:
    frames, clips = _clips()
    shuffled = frames[:, torch.randperm(frames.shape[1], generator=torch.Generator().manual_seed(0))]
    tower, prompts = motion_tower.load(), [clip.prompt for clip in clips]
    moving = torch.tensor([clip.spec.family != "static" for clip in clips])
    whole, lawful = (_features(tower, each, prompts)[moving, 4:6].T for each in (frames, shuffled))
    assert (whole > lawful).float().mean() >= 0.9


def test_words_that_it_never_met_say_nothing() -> None:
    tower = MotionTower(["a", "ball", "moves", "red"])
    frames = _clips(2)[0]
    one, two = _features(tower, frames, ["red ball", "swims"]), _features(tower, frames, ["Red ball, please!", ""])
    torch.testing.assert_close(one, two)
    assert (one[1, :4] == 0).all() and (one[0, :2] < 0).all()


def test_a_tower_survives_saving(tmp_path: Path) -> None:
    tower = MotionTower(["ball", "moves", "red"]).half().float().eval().requires_grad_(False)
    tower.save(tmp_path / "tower.safetensors")
    again = motion_tower.load(tmp_path / "tower.safetensors")
    assert again.words == tower.words
    frames = _clips(2)[0]
    assert torch.equal(_features(again, frames, ["red", "x"]), _features(tower, frames, ["red", "x"]))


def test_a_lesson_lowers_the_loss_and_repeats_to_the_last_bit() -> None:
    pool = motion_lessons.render(seed_for(FEW.seed, "motion clips"), FEW.num_clips, FEW.noise)
    rows, rng = torch.arange(16), torch.Generator()
    before = motion_lessons.loss(MotionTower(pool.words), pool, rows, rng.manual_seed(0))
    after = motion_lessons.loss(motion_lessons.teach(FEW), pool, rows, rng.manual_seed(0))
    assert after < 0.5 * before
    short = dataclasses.replace(FEW, steps=2)
    one, two = (motion_lessons.teach(short).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_third_stays_unbent_and_a_pixel_costs_half() -> None:
    frames = _clips(1)[0]
    now, mass = (part.expand(900, *part.shape[1:]) for part in moments(frames))
    new, heavy, lawful = bent(now, mass, torch.Generator().manual_seed(0))
    same = ((new == now).flatten(1).all(1)) & ((heavy == mass).flatten(1).all(1))
    assert float(same.float().mean()) == pytest.approx(1 / 3, abs=0.06)
    assert (lawful[same] == 1).all()
    thing = int(mass[0].sum(0).argmax())
    moved = 64 * (new - now)[:, :, thing][..., PLACE].norm(dim=-1).amax(1)
    alone = torch.isclose(heavy, mass).flatten(1).all(1)  # neither faded nor shown at other moments
    torch.testing.assert_close(lawful[alone], 1 / (1 + moved[alone].square()), atol=0.02, rtol=0)


def test_the_exam_is_of_other_clips_repeats_and_tells_a_taught_tower_from_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(motion_lessons, "EXAM", 16)
    shipped, lessons = motion_tower.load(), Lessons("", num_clips=1)
    words, faults = motion_lessons.examined(shipped, lessons)
    assert (words, faults) == motion_lessons.examined(shipped, lessons)
    new = motion_lessons.examined(MotionTower(shipped.words), lessons)
    assert words < 0.3 * new[0] and faults < new[1]
