"""`soralign align ALGORITHM --config RECIPE --out DIR`: options of the command, the loop and the algorithm in a row.

`soralign align diagnose RUN` reads a run instead of making one.

Every field of `TrainConfig` and of the algorithm's own dataclass is an option under its own name, so a recipe is a flat
list of names that are found again, unchanged, in the code.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from align import ALGORITHMS, diagnose
from base_model.options import ModelOptions
from core import prompts, registry
from core.cli import option, parse, required, settings_of
from core.errors import UserError

if TYPE_CHECKING:
    from align.protocol import Algorithm
    from reward.protocol import Reward


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is aligned, to what, on which prompts."""

    out: str = required("run folder; the same command again continues it")
    prompts: list[str] = required(
        "files of training prompts: text, one per line, or .jsonl with prompt, weight, tag, and what its clips are "
        "made from (image, video, keyframes, edit, references, control); several as `a.txt=.7 b.jsonl=.3` are drawn in "
        "these shares"
    )
    reward: list[str] = option(
        [],
        "reward names or folders; several make a weighted sum, as `clip=.5 runs/reward=1`; only dpo with a "
        "store needs none",
    )
    judge: list[str] = option([], "rewards that are watched and not trained on")
    judge_prompts: str = option("", "file of the judges' prompts; empty = the last fifth of the training prompts")
    model: str = option("sandbox", "generator name, folder or hub id")


def align(argv: list[str]) -> None:
    """Move a generator toward a reward with the algorithm that the first word names."""
    if not argv or argv[0].startswith("-"):
        usage = f"usage: soralign align ALGORITHM [--config RECIPE] [options]; algorithms: {', '.join(ALGORITHMS)}"
        if argv[:1] in (["-h"], ["--help"]):
            print(
                f"{usage}\n`soralign align ALGORITHM --help` explains the options, `soralign align diagnose RUN` a run."
            )
            return
        raise UserError(f"an algorithm is missing; {usage}")
    if argv[0] == "diagnose":
        diagnose.command(argv[1:])
        return
    kind = cast(type[Any], registry.resolve(ALGORITHMS, argv[0], "algorithm"))

    from align.dpo import Votes
    from align.train import TrainConfig, train  # torch and accelerate load only when there is something to do

    kinds = (Subject, ModelOptions, TrainConfig, kind)
    options = parse(_merged(argv[0], kinds), argv[1:], prog=f"soralign align {argv[0]}")
    config, algorithm = settings_of(TrainConfig, options), cast("Algorithm", settings_of(kind, options))
    listed = prompts.mixture(options.prompts)
    config.check()
    from_votes = bool(getattr(algorithm, "store", ""))
    if not options.reward and not from_votes:
        raise UserError(f"soralign align {argv[0]}: --reward is missing; only `dpo --store` learns without one")

    import base_model

    if options.offload == "sequential":
        raise UserError("offload 'sequential' is for sampling only: gradients need the transformer whole; use 'model'")
    if "sage" in (options.attention or ""):
        raise UserError(f"attention '{options.attention}' is for sampling only: it passes no gradients; leave it out")
    if options.quantize != "none" and options.adapter != "lora":
        raise UserError(f"adapter '{options.adapter}' needs weights of full precision; use 'lora', or quantize 'none'")
    judge_prompts = prompts.read_all(options.judge_prompts) if options.judge_prompts else []
    # Pairs of a preference store bring prompts of their own; text encoders stay for them.
    known = None if from_votes else [one.text for one in (*listed, *judge_prompts)]
    # Before the model: a misspelt name should not cost minutes.
    reward = load_reward(options.reward) if options.reward else Votes()
    loaded = ModelOptions.of(options)
    run = train(
        base_model.load(options.model, loaded, known),
        reward,
        algorithm,
        listed,
        config,
        options.out,
        judges=[load_reward([word]) for word in options.judge],
        judge_prompts=judge_prompts,
        loaded=loaded,
    )
    part = "model" if config.adapter == "full" else "lora"
    print(f"aligned: {run.latest()}/{part}  (curves: {run.folder}/metrics.jsonl, clips: {run.samples})")


def load_reward(words: Sequence[str]) -> "Reward":
    """One reward by name or folder, or a mixture of `NAME=WEIGHT` words.

    Raises: UserError for an unknown name, one given twice, or a weight that is 0 or no number.
    """
    import reward
    from reward.mixture import Mixture

    weights: dict[str, float] = {}
    for word in words:
        before, equals, number = word.rpartition("=")
        name = before if equals else word
        try:
            weight = float(number) if equals else 1.0
        except ValueError as error:
            raise UserError(
                f"reward '{word}': the weight '{number}' is not a number; write NAME or NAME=1.0"
            ) from error
        if weight == 0:
            raise UserError(f"reward '{word}': with weight 0 it teaches nothing; give it as --judge to watch it")
        if name in weights:
            raise UserError(f"reward '{name}' is given twice; give it once, with the sum of the weights")
        weights[name] = weight
    if len(words) == 1 and "=" not in words[0]:
        return reward.load(words[0])
    return Mixture(weights)


def _merged(name: str, kinds: Sequence[type]) -> type[Any]:
    """A dataclass with the fields of all `kinds`, required ones first."""
    fields: list[tuple[str, Any, Any]] = []
    for kind in kinds:
        hints = get_type_hints(kind)
        for one in dataclasses.fields(kind):
            copy = dataclasses.field(default=one.default, default_factory=one.default_factory, metadata=one.metadata)
            fields.append((one.name, hints[one.name], copy))
    merged = dataclasses.make_dataclass(f"align_{name}", fields, frozen=True)
    merged.__doc__ = (kinds[-1].__doc__ or "").strip()
    return merged
