"""Trains the three parts of the native model, each from nothing but a seed: codec, CLIP, the transformer on both.

One file a part; data are drawn from the sandbox world, or are people's own clips (`clips`).
"""

from base_model.pretrain.config import PretrainConfig, check
from base_model.pretrain.loop import pretrain, rate

__all__ = ["PretrainConfig", "check", "pretrain", "rate"]
