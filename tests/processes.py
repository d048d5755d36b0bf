"""A script of these tests in two processes (gloo), started as a user would: by torchrun or by `accelerate launch`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--config_file", str(ROOT / "align" / "launch" / "two_cpus.yaml"))


def run(launcher: tuple[str, ...], *words: str | Path, **environment: str) -> str:
    """What the processes wrote to stderr; none of them sees a GPU.

    Args:
        words: a script of this folder and what it is told, or `-m`, a module and what that is told.
    Raises: AssertionError with the end of what they wrote, if one of them did not end well.
    """
    fixed = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, words)],
        cwd=ROOT / "tests",
        env=os.environ | fixed | environment,
        timeout=900,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stderr


def leave() -> NoReturn:
    """End one of the processes at once, well.

    A worker of gloo that still holds tensors of the last exchange needs Python to let go of them, and aborts the
    process if Python is ending by then. Leaving the group ends the workers, but not those of one that FSDP2 has used.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
