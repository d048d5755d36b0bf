"""What makes a run this run: a folder is continued only by the command that would have made the same weights.

Left out on purpose: where and in how many processes it runs, and what only saves memory; those may change on the way.
So may the number of steps, as long as the learning rate does not fall toward the last.
"""

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config import TrainConfig
from align.held_out import HeldOut
from align.protocol import Algorithm
from base_model.options import ModelOptions
from base_model.protocol import Generator
from core import video
from core.prompts import Prompt
from core.run import Run

if TYPE_CHECKING:
    from reward.protocol import Reward

# Settings that runs were made without, and what those did.
ADDED = {
    "decay": 0.0,
    "compile": False,
    "keep": 0,
    "solver": "euler",
    "critic_start": "",
    "project": None,
    "quantize": "none",
    "guidance_2": None,
    "control_scale": 1.0,
}


def describe(
    generator: Generator,
    loaded: ModelOptions,
    reward: "Reward",
    algorithm: Algorithm,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    held_out: HeldOut,
) -> dict[str, Any]:
    """Settings and inputs by name. To be asked before training changes the precision of the weights."""
    size = generator.size
    return {
        "model": generator.name,
        "dtype": str(next(generator.policy_module().parameters()).dtype).removeprefix("torch."),
        "quantize": loaded.quantize,
        "guidance_2": loaded.guidance_2,
        "control_scale": loaded.control_scale,
        "clip": f"{size.num_frames}x{size.height}x{size.width}",
        "reward": f"{reward.name} {reward.version}",
        "judges": [f"{judge.name} {judge.version}" for judge in held_out.judges],
        "lower_is_better": _falling(reward, held_out.judges),
        "algorithm": type(algorithm).__name__,
        **asdict(algorithm),  # type: ignore[call-overload]
        **asdict(config),
        "num_prompts": len(prompts),
        "prompts_sha256": sha256("\n".join(map(_line, prompts)).encode()).hexdigest(),
        "judge_prompts_sha256": sha256("\n".join(held_out.prompts).encode()).hexdigest(),
    }


def open_run(out: Path | str, description: dict[str, Any], writes: bool) -> Run:
    """The run folder at `out`, new or gone on with, further than was planned if need be; one process `writes`.

    Raises: UserError that names every setting with both values, if it was made with others, or says who writes it.
    """
    unsaid = {key: description[key] for key in ("dtype", "lower_is_better")}  # of runs that did not say, take it so
    defaults = {key: value for key, value in (ADDED | unsaid).items() if key in description}
    free = ("steps",) if description["decay"] == 0 else ()
    return Run.open(Path(out), description, defaults, free=free, writes=writes)


def _falling(reward: "Reward", judges: Sequence["Reward"]) -> list[str]:
    """The logged names of what gets better as it falls."""
    names = [] if reward.higher_is_better else ["reward/total", "judge/trained_reward"]
    return names + [f"judge/{judge.name}" for judge in judges if not judge.higher_is_better]


def _line(prompt: Prompt) -> str:
    """All that makes a prompt this prompt."""
    words = [prompt.text, prompt.weight, prompt.tag, *map(video.sha256, prompt.files)]
    words += [prompt.strength] if prompt.strength < 1 else []
    return "\t".join(map(str, [*words, *(frame for frame, _ in prompt.keyframes)]))
