"""Does the video look like its prompt, by a CLIP? Raw cosine and Hessel's scale are two metrics with two names.

Frames are pooled before the comparison, or the best one is taken, so the order of frames is invisible here; attributes
and physics see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eval.protocol import Array, Member, Metric, Sample, Score, missing

HESSEL = 2.5


def _embedded(sample: Sample) -> tuple[Array, Array] | Score:
    """Features of the frames [time, dim] and of the prompt [dim], or why there are none."""
    if not sample.prompt:
        return missing("the video has no prompt")
    if sample.features is None or sample.text is None:
        return missing("no backbone")
    return sample.features, sample.text


def score(sample: Sample) -> Score:
    """Cosine of the mean frame embedding and the prompt's embedding, in [-1, 1]. Source: Hessel et al. 2021, eq. 1."""
    found = _embedded(sample)
    if isinstance(found, Score):
        return found
    pooled = found[0].mean(axis=0)
    return Score(float(pooled @ found[1] / np.linalg.norm(pooled)))


def best_frame(sample: Sample) -> Score:
    """Largest cosine of a frame and the prompt."""
    found = _embedded(sample)
    return found if isinstance(found, Score) else Score(float((found[0] @ found[1]).max()))


def hessel(sample: Sample) -> Score:
    """2.5 x max(cosine, 0), mean over frames. Source: Hessel et al. 2021, eq. 1, per frame."""
    found = _embedded(sample)
    return found if isinstance(found, Score) else Score(float(HESSEL * np.maximum(found[0] @ found[1], 0.0).mean()))


def retrieval(members: Sequence[Member]) -> list[Score]:
    """Is a video's own prompt the nearest of all prompts of the set: 1 or 0; half with a tie."""
    prompts = {member.prompt: member.text for member in members if member.prompt and member.text is not None}
    if len(prompts) < 2:
        return [missing("fewer than two prompts to choose from")] * len(members)
    names, texts = list(prompts), np.stack(list(prompts.values()))
    scores = []
    for member in members:
        if member.prompt not in prompts:
            scores.append(missing("the video has no prompt"))
            continue
        similar = texts @ member.features.mean(axis=0)
        best = np.flatnonzero(similar >= similar.max() - 1e-9)
        scores.append(Score(float(names.index(member.prompt) in best) / len(best)))
    return scores


def _metric(
    name: str, backbone: str, judge: Callable[[Sample], Score], unit: str, limits: tuple[float, float], how: str
) -> Metric:
    return Metric(
        name=f"{name}[{backbone}]",
        version="1",
        unit=unit,
        range=limits,
        higher_is_better=True,
        needs=("frames", "prompt"),
        blind_spots="order of frames, speed, anything the CLIP was not trained to tell",
        per_video=judge,
        backbone=backbone,
        preprocessing=f"{backbone} CLIP per frame, {how}",
    )


def _retrieval(backbone: str) -> Metric:
    return Metric(
        name=f"retrieval[{backbone}]",
        version="1",
        unit="share of videos",
        range=(0.0, 1.0),
        higher_is_better=True,
        needs=("frames", "prompt"),
        blind_spots="easier with fewer and with more different prompts: compare sets of the same prompts only",
        per_group=retrieval,
        group="set",
        backbone=backbone,
        preprocessing=f"{backbone} CLIP per frame, mean over frames, cosine with every prompt of the set",
    )


_POOLED, _BEST, _SCALED = (
    "mean over frames, cosine with the prompt",
    "cosine with the prompt, best frame",
    "2.5 x max(cosine with the prompt, 0), mean over frames",
)
SANDBOX = _metric("clip_sim", "sandbox", score, "cosine", (-1.0, 1.0), _POOLED)
OPEN_CLIP = _metric("clip_sim", "open_clip", score, "cosine", (-1.0, 1.0), _POOLED)
BEST_SANDBOX = _metric("clip_best_frame", "sandbox", best_frame, "cosine", (-1.0, 1.0), _BEST)
BEST_OPEN_CLIP = _metric("clip_best_frame", "open_clip", best_frame, "cosine", (-1.0, 1.0), _BEST)
HESSEL_OPEN_CLIP = _metric("clip_score", "open_clip", hessel, "2.5 x cosine", (0.0, 2.5), _SCALED)
RETRIEVAL_SANDBOX = _retrieval("sandbox")
RETRIEVAL_OPEN_CLIP = _retrieval("open_clip")
