"""Memory of a training step does not grow with the number of sampling steps: only what is trained on is kept."""

import importlib
import platform
import resource
from pathlib import Path
from types import ModuleType

import pytest
import torch
from toy_generator import Brightness

from align.grpo import GRPO
from align.nft import NFT
from align.protocol import Algorithm
from base_model import native
from base_model.large import keep_freed_memory


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return importlib.import_module("align_cost")


@pytest.mark.parametrize(
    ("algorithm", "grows"),
    [
        (GRPO(group_size=8, window=2, window_stop=3), False),
        (NFT(group_size=8, levels=2), False),
        (GRPO(group_size=8, window=0), True),
    ],
    ids=["grpo-window", "nft", "grpo-all-steps"],
)
def test_peak_memory_against_sampling_steps(benchmark: ModuleType, algorithm: Algorithm, grows: bool) -> None:
    short, long = (benchmark.peak_bytes(native.nano(), Brightness(), algorithm, steps) for steps in (5, 20))
    assert long > 1.02 * short if grows else long < 1.001 * short


def test_what_is_alive_is_counted_once_and_let_go(benchmark: ModuleType) -> None:
    with benchmark.Alive() as alive:
        first = torch.zeros(100, dtype=torch.float32)
        view = first[:50]
        assert alive.peak == 400
        del first
        second = torch.ones(100, dtype=torch.float32)
        assert alive.peak == 800
        del view, second
        torch.zeros(150, dtype=torch.float32)
        assert alive.peak == 800


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep what was freed")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2**18) for _ in range(64)]  # 16,384 pages
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 1000
