"""Per-video metrics on videos whose value can be worked out by hand, and on their blind spots."""

import numpy as np
import pytest
from toy_backbone import ToyBackbone

from base_model.world import dataset
from core.errors import UserError
from core.registry import resolve
from eval import METRICS, attributes, clip_sim, controls, diversity, gold, physics_iq, phyworld, select, temporal
from eval import physics as physics_metrics
from eval.flow import Dis
from eval.protocol import Member, Metric, Sample

BACKBONE = ToyBackbone()


def sample(frames: np.ndarray, prompt: str = "a red ball moves right") -> Sample:
    features, text = BACKBONE.encode_frames(frames), BACKBONE.encode_text(prompt)
    return Sample("one", prompt, 0, frames, features, text, estimator=Dis())


def real(family: str = "uniform") -> dataset.Clip:
    index = 0
    while (clip := dataset.make_clip(2, index, style="descriptive", most_objects=2)).spec.family != family:
        index += 1
    return clip


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_named_as_in_the_table_and_has_its_fine_print(name: str) -> None:
    metric: Metric = resolve(METRICS, name, "metric")
    assert metric.name == name and metric.unit and metric.version and metric.blind_spots and metric.needs
    kinds = [metric.per_video, metric.per_group, metric.per_set]
    assert sum(kind is not None for kind in kinds) == 1


@pytest.mark.parametrize("name", [n for n in METRICS if resolve(METRICS, n, "metric").per_video is not None])
@pytest.mark.parametrize("kind", ["one frame", "empty", "odd size", "no prompt", "noise"])
def test_every_metric_gives_a_number_or_a_reason(name: str, kind: str) -> None:
    clip = real()
    frames = {
        "one frame": clip.frames[:1],
        "empty": np.zeros((17, 3, 64, 64), np.float32),
        "odd size": clip.frames[:, :, :50, :38],
        "no prompt": clip.frames,
        "noise": np.random.default_rng(0).random((17, 3, 64, 64), dtype=np.float32),
    }[kind]
    metric: Metric = resolve(METRICS, name, "metric")
    assert metric.per_video is not None
    score = metric.per_video(sample(frames, "" if kind == "no prompt" else clip.prompt))
    assert np.isfinite(score.value) or score.reason
    if np.isfinite(score.value):
        assert metric.range[0] - 1e-6 <= score.value <= metric.range[1] + 1e-6


def test_flicker_of_a_known_video() -> None:
    frames = np.zeros((5, 3, 8, 8), np.float32)
    frames[::2] = 0.25
    assert temporal.flicker(sample(frames)).value == pytest.approx(0.75)
    assert temporal.flicker(sample(frames[:1])).reason


def test_motion_counts_the_pairs_that_change() -> None:
    frames = np.zeros((5, 3, 20, 20), np.float32)
    frames[2:, :, :2, :2] = 1  # one change in four pairs
    assert temporal.motion(sample(frames)).value == 0.25
    assert (
        temporal.motion(sample(frames + np.float32(0.01) * np.arange(5, dtype=np.float32)[:, None, None, None])).value
        == 0.25
    )


def test_consistency_likes_frozen_videos_and_order_sensitivity_does_not() -> None:
    clip = real().frames
    frozen = controls.spoil(clip, "frozen", 0)
    assert temporal.consistency(sample(frozen)).value == pytest.approx(1)
    assert temporal.consistency(sample(frozen)).value > temporal.consistency(sample(clip)).value
    assert temporal.order_sensitivity(sample(frozen)).value == pytest.approx(0)
    assert temporal.order_sensitivity(sample(clip)).value > 0.01
    assert abs(temporal.order_sensitivity(sample(controls.spoil(clip, "shuffled", 0))).value) < 0.05


def test_weakest_link_sees_what_the_mean_hides() -> None:
    clip = real().frames.copy()
    clip[8] = 1 - clip[8]
    drop = temporal.consistency(sample(real().frames)).value - temporal.consistency(sample(clip)).value
    worst = temporal.weakest_link(sample(real().frames)).value - temporal.weakest_link(sample(clip)).value
    assert worst > 3 * drop > 0


def test_clip_sim_is_the_cosine_of_the_pooled_frames() -> None:
    one = sample(real().frames)
    assert one.features is not None and one.text is not None
    pooled = one.features.mean(axis=0)
    assert clip_sim.score(one).value == pytest.approx(float(pooled @ one.text) / np.linalg.norm(pooled))
    one.features = np.repeat(one.text[None], 4, axis=0)
    assert clip_sim.score(one).value == pytest.approx(1)


def members(*videos: np.ndarray) -> list[Member]:
    return [Member("one", video, None) for video in videos]


def test_diversity_is_the_mean_distance_to_siblings() -> None:
    videos = [np.full((3, 4), value) for value in (0.0, 1.0, 4.0)]
    assert [score.value for score in diversity.spread(members(*videos))] == [2.5, 2.0, 3.5]
    assert diversity.spread(members(videos[0]))[0].reason
    assert [score.value for score in diversity.spread(members(videos[0], videos[0]))] == [0, 0]


def test_an_odd_video_costs_its_siblings_no_diversity() -> None:
    videos = [np.full((3, 4), value) for value in (0.0, 1.0)]
    videos[1][2] = 5.0  # rms over time: sqrt((1 + 1 + 25) / 3) = 3
    odd = [np.zeros((3, 2)), np.full((1, 4), 2.0)]
    scores = diversity.spread(members(*videos, *odd))
    assert [score.value for score in scores[:2]] == [2.5, 2.0]  # 2 and 1 from the video of one frame
    assert scores[2].reason and scores[3].value == 1.5
    unasked = [Member("", row.features, row.text) for row in members(*videos)]
    assert all("no prompt" in (score.reason or "") for score in diversity.spread(unasked))


def test_attributes_judge_the_prompt_not_the_video_alone() -> None:
    clip = real()
    right = attributes.share_right(sample(clip.frames, clip.prompt))
    assert right.value == 1
    colour = clip.spec.objects[0].colour
    other = clip.prompt.replace(colour, "green" if colour != "green" else "red")
    assert attributes.right("colour")(sample(clip.frames, other)).value == 0
    assert attributes.share_right(sample(clip.frames, other)).value < 1
    assert attributes.share_right(sample(clip.frames, "a dog runs")).reason


def test_gold_and_physics_prefer_truth_to_every_control_of_motion() -> None:
    clip = real("bounce")
    truth = sample(clip.frames, clip.prompt)
    for kind in ("frozen", "shuffled", "reversed", "noise"):
        spoilt = sample(controls.spoil(clip.frames, kind, 0), clip.prompt)
        assert gold.score(truth).value > gold.score(spoilt).value, kind
        assert physics_metrics.passed(spoilt).value == 0 or kind == "noise", kind


def test_controls_are_the_same_every_time_and_stay_in_range() -> None:
    clip = real().frames
    for kind in controls.CONTROLS:
        one, two = controls.spoil(clip, kind, 3), controls.spoil(clip, kind, 3)
        assert np.array_equal(one, two) and one.dtype == np.float32 and one.shape == clip.shape
        assert one.min() >= 0 and one.max() <= 1


def test_a_metric_that_likes_a_control_is_flagged() -> None:
    metrics = [temporal.FLICKER, physics_metrics.PASS_RATE]
    better, worse = [0.9, 0.91, 0.92, 0.9], [0.5, 0.55, 0.5, 0.52]
    kinds = {
        "real": controls.Control({"flicker": worse, "physics_pass_rate": better}, {}),
        "frozen": controls.Control({"flicker": better, "physics_pass_rate": worse}, {}),
    }
    rows = controls.table(metrics, kinds)
    assert rows["flicker"]["flagged"] == ["frozen"] and rows["physics_pass_rate"]["flagged"] == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["fvd"], ["fvd[sandbox,dct]"]),
        (["diversity"], ["diversity", "diversity[sandbox]"]),
        (["flicker", "gold"], None),
        (["fvd[i3d,16f,224,bilinear]"], None),  # named in full, it says why it did not run
    ],
)
def test_metrics_are_chosen_by_name_or_group(wanted: list[str], found: list[str] | None) -> None:
    assert {metric.name for metric in select.metrics(wanted)} == set(found or wanted)


def test_an_unknown_metric_answers_with_near_names() -> None:
    with pytest.raises(UserError, match="did you mean .*flicker"):
        select.metrics(["fliker"])


def test_all_leaves_out_what_needs_weights_that_are_not_given() -> None:
    names = {metric.name for metric in select.metrics(["all"])}
    assert "fvd[sandbox,dct]" in names and "warping_error[dis]" in names
    assert not any(word in name for name in names for word in ("i3d", "open_clip", "raft", "dino", "videomae"))
    with_weights = {metric.name for metric in select.metrics(["all"], ["i3d", "raft"])} - names
    assert {"fvd[i3d,16f,stylegan-v]", "fvd[i3d,16f,videogpt]", "warping_error[raft]"} <= with_weights


def test_a_reward_is_a_metric_by_its_name() -> None:
    (metric,) = select.metrics(["reward[brightness]"])
    clip = real().frames
    assert metric.per_video is not None and metric.version
    assert metric.per_video(sample(clip)).value < metric.per_video(sample(np.sqrt(clip))).value
    with pytest.raises(UserError, match="brightnes"):
        select.metrics(["reward[brightnes]"])


def test_duplicate_frames_are_counted_and_codec_noise_is_none() -> None:
    clip = real().frames
    held = clip[[0, 0, 1, 1, 2, 3, 4, 5, 6]]
    assert temporal.duplicates(sample(held)).value == 0.25 and temporal.duplicates(sample(clip)).value == 0
    noisy = np.clip(held + 0.005 * np.random.default_rng(0).standard_normal(held.shape), 0, 1).astype(np.float32)
    assert temporal.duplicates(sample(noisy)).value == 0.25
    assert temporal.duplicates(sample(clip[:1])).reason


def test_a_cut_is_found_and_fast_motion_is_none() -> None:
    clip = real().frames
    assert temporal.cuts(sample(clip)).value == 0
    assert temporal.cuts(sample(np.r_[clip[:8], 1 - clip[8:]])).value == 1
    assert temporal.cuts(sample(np.r_[clip[:5], 1 - clip[5:11], clip[11:]])).value == 2


def test_anchored_consistency_is_vbench_formula() -> None:
    one = sample(real().frames)
    angles = np.array([0.0, 0.3, 1.0, 2.5])
    one.features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    step, first = np.cos([0.3, 0.7, 1.5]), np.cos([0.3, 1.0, 2.5])
    expected = np.mean([(max(0, a) + max(0, b)) / 2 for a, b in zip(step, first, strict=True)])
    assert temporal.anchored(one).value == pytest.approx(expected)


def test_clip_scores_have_their_own_scale() -> None:
    one = sample(real().frames)
    one.text = np.array([1.0, 0.0])
    one.features = np.array([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])
    assert clip_sim.best_frame(one).value == 1
    assert clip_sim.hessel(one).value == pytest.approx(2.5 * (0.6 + 1 + 0) / 3)


def test_retrieval_asks_for_the_own_prompt_among_all() -> None:
    texts = np.eye(3)
    rows = [np.array([[0.9, 0.1, 0.0]]), np.array([[0.1, 0.0, 0.9]]), np.array([[0.0, 0.2, 0.9]])]
    group = [Member(f"p{i}", row, text) for i, (row, text) in enumerate(zip(rows, texts, strict=True))]
    assert [score.value for score in clip_sim.retrieval(group)] == [1, 0, 1]
    assert clip_sim.retrieval(group[:1])[0].reason
    assert clip_sim.retrieval([*group, Member("", rows[0], None)])[3].reason
    same = [Member(f"p{i}", rows[0], np.ones(3)) for i in range(4)]
    assert [score.value for score in clip_sim.retrieval(same)] == [0.25] * 4


def test_physics_iq_of_a_video_against_itself_and_against_a_still() -> None:
    clip = np.repeat(np.repeat(real().frames, 2, axis=2), 2, axis=3)
    judges = {
        name: physics_iq.of_masks(getattr(physics_iq, name)) for name in ("spatial", "spatiotemporal", "weighted")
    }
    one, still = sample(clip), sample(controls.spoil(clip, "frozen", 0))
    one.real = still.real = clip
    for name, judge in judges.items():
        assert judge(one).value == 1, name
        assert judge(still).value < 0.5, name
    assert physics_iq.mse(one).value == 0 < physics_iq.mse(still).value
    backwards = sample(clip[::-1])
    backwards.real = clip
    assert judges["spatial"](backwards).value > judges["spatiotemporal"](backwards).value
    assert "no video of this prompt" in physics_iq.mse(sample(clip)).reason
    one.real = clip[:, :, :32]
    assert "128x32" in physics_iq.mse(one).reason


@pytest.mark.parametrize("split", ["train", "velocity", "radius", "both"])
def test_phyworld_splits_are_those_of_the_world(split: str) -> None:
    name = {"train": "in", "velocity": "speed"}.get(split, split)
    right = 0
    for index in range(40):
        clip = dataset.make_clip(5, index, split=split)
        odd = phyworld.is_odd_radius(clip.state), phyworld.is_odd_speed(clip.state, clip.spec.family)
        right += phyworld.SPLITS[name] == odd
    assert right >= 39
    one = sample(clip.frames, clip.prompt)
    one.state = clip.state
    assert phyworld.velocity_error(name)(one).value < 0.1
    other = "both" if name == "in" else "in"
    assert phyworld.velocity_error(other)(one).reason == "of another split"
    assert phyworld.velocity_error(name)(sample(clip.frames)).reason
