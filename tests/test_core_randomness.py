import subprocess
import sys

import numpy as np
import torch

from core.randomness import numpy_generator, seed_for, torch_generator


def test_a_seed_depends_on_every_argument_and_is_the_same_everywhere():
    seeds = {seed_for(0, "noise"), seed_for(1, "noise"), seed_for(0, "prompt"), seed_for(0, "noise", 0)}
    seeds |= {seed_for(0, "noise", 1), seed_for(0, "noise", 0, 1), seed_for(0, "noise", 1, 0), seed_for(0, "noise/1")}
    assert len(seeds) == 7  # "noise" with index 1 and "noise/1" are the one spelling that coincides
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, "noise", 1) == 3136146697272329583


def test_generators_repeat():
    np.testing.assert_array_equal(numpy_generator(3, "x", 1).random(4), numpy_generator(3, "x", 1).random(4))
    first, second = (torch.randn(4, generator=torch_generator(3, "x", 1)) for _ in range(2))
    assert torch.equal(first, second)


def test_core_and_the_command_line_start_without_torch():
    code = (
        "import sys; import core.video, core.videoset, core.preferences_commands, core.run, core.stats;"
        "from core.cli import main; main(['--help']); main(['preferences', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'trl', 'transformers', 'streamlit')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
