"""A fixed random projection in the place of CLIP weights: the plumbing of an evaluation without its weights."""

import hashlib

import numpy as np

from eval.features import thumbnail
from eval.protocol import Array, Frames


class ToyBackbone:
    name = "toy"
    preprocessing = "16x16 area means"
    min_frames = 1

    def __init__(self, dim: int = 32, seed: int = 0) -> None:
        self.matrix = np.random.default_rng(seed).standard_normal((3 * 16 * 16, dim))
        self.sha256 = hashlib.sha256(self.matrix.tobytes()).hexdigest()
        self.num_encoded = 0

    def encode_frames(self, frames: Frames) -> Array:
        self.num_encoded += 1
        pixels = thumbnail(frames) - 0.2
        embedded = pixels @ self.matrix[: pixels.shape[1]]
        return embedded / np.linalg.norm(embedded, axis=1, keepdims=True)

    def encode_text(self, prompt: str) -> Array:
        digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
        embedded = np.random.default_rng(digest).standard_normal(self.matrix.shape[1])
        return embedded / np.linalg.norm(embedded)
