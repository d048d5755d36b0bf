"""Recipes of the hub families: each passes its run's checks on a tiny model of its family and gives its reasons."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
import yaml
from toy_generator import Brightness

from align import ALGORITHMS
from align.commands import Subject, _merged
from align.config import TrainConfig
from align.setup import check_updates, policy_for
from base_model.hub import PIPELINES
from base_model.hub.generator import HubGenerator
from base_model.large import launch
from base_model.options import ModelOptions
from base_model.protocol import VideoSize
from core.cli import parse, settings_of
from core.registry import resolve

ROOT = Path(__file__).parents[1]
RECIPES = sorted(one for one in (ROOT / "align/recipes").glob("*.yaml") if not one.stem.startswith("sandbox"))
BUILDERS = {
    "wan": tiny_pipelines.wan,
    "wan_vace": tiny_pipelines.wan_vace,
    "wan_i2v": tiny_pipelines.wan_i2v,
    "wan_5b": tiny_pipelines.wan_5b,
    "wan_a14b": tiny_pipelines.wan_a14b,
    "ltx": tiny_pipelines.ltx,
    "ltx2": tiny_pipelines.ltx2,
    "cogvideox": tiny_pipelines.cogvideox_2b,
    "cogvideox_i2v": tiny_pipelines.cogvideox_i2v,
    "hunyuan_video": tiny_pipelines.hunyuan_video,
    "hunyuan_video_i2v": tiny_pipelines.hunyuan_video_i2v,
    "hunyuan_video_1_5": tiny_pipelines.hunyuan_video_1_5,
    "hunyuan_video_1_5_i2v": tiny_pipelines.hunyuan_video_1_5_i2v,
    "latte": tiny_pipelines.latte,
    "mochi": tiny_pipelines.mochi,
    "sana_video": tiny_pipelines.sana_video,
}
"""By the longest beginning of a recipe's name."""


def generator_for(recipe: Path, options: Any) -> HubGenerator:
    """A tiny model of the recipe's family. Raises: UserError for a clip size that the family does not make."""
    name = max((one for one in BUILDERS if recipe.stem.startswith(one)), key=len)
    pipeline = tiny_pipelines.seeded(BUILDERS[name])
    if name == "ltx":  # the tiny codec shrinks less, and the schedule is shifted by the number of cells
        pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio = 8, 32
    if name == "cogvideox_i2v":  # its positions are for one size alone
        pipeline.transformer.register_to_config(sample_frames=49, sample_height=60, sample_width=90)
    family = resolve(PIPELINES, type(pipeline).__name__, "pipeline")(pipeline)
    own = family.size
    size = VideoSize(options.num_frames or own.num_frames, options.height or own.height, options.width or own.width)
    return HubGenerator(family, options.model, size, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(one, id=one.stem, marks=pytest.mark.slow if "1_5" in one.stem or "ltx2" in one.stem else ())
        for one in RECIPES
    ],
)
def test_a_recipe_passes_the_checks_of_its_run_on_its_family(recipe: Path, tmp_path: Path) -> None:
    algorithm = next(name for name in sorted(ALGORITHMS, key=len, reverse=True) if recipe.stem.endswith(f"_{name}"))
    kind = resolve(ALGORITHMS, algorithm, "algorithm")
    words = ["--config", str(recipe), "--out", str(tmp_path), "--prompts", "p.txt"]
    options = parse(_merged(algorithm, (Subject, ModelOptions, TrainConfig, kind)), words, "align")
    config = settings_of(TrainConfig, options)
    config.check()
    policy = policy_for(generator_for(recipe, options), Brightness(), config, launch("no"), {})  # its LoRA finds layers
    settings_of(kind, options).check(policy, Brightness())
    check_updates(settings_of(kind, options), config, world=1)


def test_every_family_has_a_recipe() -> None:
    assert {max((one for one in BUILDERS if path.stem.startswith(one)), key=len) for path in RECIPES} == set(BUILDERS)
    files = {place.partition(":")[0].rpartition(".")[2] for place in PIPELINES.values()}
    assert files == {max((one for one in files if path.stem.startswith(one)), key=len) for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.stem)
def test_a_recipe_names_its_card_and_the_reason_for_each_value(recipe: Path) -> None:
    text = recipe.read_text()
    head = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    assert re.search(r"\d+ GB", head) and re.search(r"estimated|measured", head)
    shared = (ROOT / "docs/generators.md").read_text().partition("Values that recur")[2].partition("\n## ")[0]
    reasoned = set(re.findall(r"`(\w+)`", shared)) | {"model"}
    bare = {line.partition(":")[0] for line in text.splitlines() if not line.startswith("#") and "  # " not in line}
    assert bare <= reasoned
    assert yaml.safe_load(text)["gradient_checkpointing"] is True  # the cards are counted with it
