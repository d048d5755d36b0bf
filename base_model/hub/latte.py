"""Latte: variance-preserving noise, an answer with a learned variance that is dropped, a codec of single frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, Scaling, decode_with, encode_with
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import LattePipeline


@dataclass(frozen=True)
class Latte:
    """See `base_model.hub.family.Family`."""

    pipeline: LattePipeline
    title = "Latte"
    kind: Literal["flow", "vp"] = "vp"
    distilled = False
    given: Given = "noised"
    text_parts = ("text_encoder",)
    exact_parts = ()
    fps: float = 8.0

    @property
    def answer(self) -> Answer:
        return "v" if self.pipeline.scheduler.config.prediction_type == "v_prediction" else "noise"

    @property
    def size(self) -> VideoSize:
        side = self._config.sample_size * self.pipeline.vae_scale_factor
        return VideoSize(self._config.video_length, side, side)

    @property
    def channels(self) -> int:
        return int(self._config.in_channels)

    @property
    def grid(self) -> Grid:
        return Grid(1, self.pipeline.vae_scale_factor, self._config.patch_size, frames=self._config.video_length)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        # Alone, a prompt would be cropped to its own length; in company its padding is zeroed and the length kept. The
        # empty prompt, which guidance leads away from, is the one whose padding the pipeline leaves as it is.
        twice, _ = self.pipeline.encode_prompt([prompt, prompt], False, mask_feature=bool(prompt))
        return {"text": twice[:1]}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"num_inference_steps": num_steps}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        answer = self.pipeline.transformer(
            latents, encoder_hidden_states=condition["text"], timestep=timestep, return_dict=False
        )[0]
        return answer[:, : self.channels]

    def decode(self, latents: Tensor) -> Tensor:
        frames = decode_with(self.pipeline.vae, latents.transpose(1, 2).flatten(0, 1), self._scaling)
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def encode(self, video: Tensor) -> Tensor:
        latents = encode_with(self.pipeline.vae, video.transpose(1, 2).flatten(0, 1), self._scaling)
        return latents.unflatten(0, (len(video), -1)).transpose(1, 2)

    @property
    def _scaling(self) -> Scaling:
        return Scaling(self.pipeline.vae.config.scaling_factor)

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config
