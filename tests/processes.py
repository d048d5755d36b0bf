"""A script of these tests in two processes (gloo), started as a user would: by torchrun or by `accelerate launch`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--config_file", str(ROOT / "align" / "launch" / "two_cpus.yaml"))


def run(launcher: tuple[str, ...], script: str | Path, *words: str | Path, **environment: str) -> str:
    """What the processes wrote to stderr. `script` may be the name of a file of this folder; none of them sees a GPU.

    Raises: AssertionError with the end of what they wrote, if one of them did not end well.
    """
    fixed = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(ROOT / "tests" / script), *map(str, words)],
        env=os.environ | fixed | environment,
        timeout=900,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stderr
