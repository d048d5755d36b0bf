"""Per-video metrics on videos whose value can be worked out by hand, and on their blind spots."""

import numpy as np
import pytest
from toy_backbone import ToyBackbone

from base_model.world import dataset
from core.errors import UserError
from core.registry import resolve
from eval import METRICS, attributes, clip_sim, controls, diversity, gold, select, temporal
from eval import physics as physics_metrics
from eval.protocol import Metric, Sample

BACKBONE = ToyBackbone()


def sample(frames: np.ndarray, prompt: str = "a red ball moves right") -> Sample:
    return Sample("one", prompt, 0, frames, BACKBONE.encode_frames(frames), BACKBONE.encode_text(prompt))


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


def test_diversity_is_the_mean_distance_to_siblings() -> None:
    videos = [np.full((3, 4), value) for value in (0.0, 1.0, 4.0)]
    assert [score.value for score in diversity.spread(videos)] == [2.5, 2.0, 3.5]
    assert diversity.spread(videos[:1])[0].reason
    assert [score.value for score in diversity.spread([videos[0], videos[0]])] == [0, 0]


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
        "real": controls.Control({"flicker": worse, "physics_pass_rate": better}, None),
        "frozen": controls.Control({"flicker": better, "physics_pass_rate": worse}, None),
    }
    rows = controls.table(metrics, kinds, None)
    assert rows["flicker"]["flagged"] == ["frozen"] and rows["physics_pass_rate"]["flagged"] == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["fvd"], ["fvd[sandbox,dct]"]),
        (["diversity"], ["diversity", "diversity[sandbox]"]),
        (["flicker", "gold"], None),
    ],
)
def test_metrics_are_chosen_by_name_or_group(wanted: list[str], found: list[str] | None) -> None:
    assert {metric.name for metric in select.metrics(wanted)} == set(found or wanted)


def test_an_unknown_metric_answers_with_near_names() -> None:
    with pytest.raises(UserError, match="did you mean .*flicker"):
        select.metrics(["fliker"])
