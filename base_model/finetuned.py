"""All weights of a denoiser as files: what is left of a training without adapters.

Every network has a folder of its own, named and laid out as in a diffusers pipeline (`transformer`, and `transformer_2`
where two experts share the noise levels), so a pipeline takes it in the place of the one it has.
"""

from collections.abc import Mapping
from pathlib import Path

from diffusers import ConfigMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from base_model.lora import experts
from core.errors import UserError, first_line


def save(module: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write `weights`, named as by `module.state_dict()` and on the CPU, to `folder`, with each network's config."""
    for name, network in experts(module).items():
        prefix = "" if network is module else f"{name}."
        (folder / name).mkdir(parents=True)
        if isinstance(network, ConfigMixin):
            network.save_config(folder / name)
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        save_file(own, folder / name / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})


def load(module: nn.Module, folder: Path) -> None:
    """Give `module` the weights in `folder`, in the precision that it has.

    Raises: UserError if a file is missing, broken, or of another model.
    """
    for name, network in experts(module).items():
        path = Path(folder) / name / SAFETENSORS_WEIGHTS_NAME
        if not path.is_file():
            raise UserError(f"no weights at '{path}': give the `model` folder of a checkpoint made with adapter: full")
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"the weights in '{path}' are broken or of another model: {first_line(error)}") from error
