"""What `test_align_deepspeed.py` starts under accelerate's launcher: the toy run. `deepspeed_run.py OUT`."""

import sys
from unittest import mock

import deepspeed
import toy_run
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from processes import leave


def launch(precision: str) -> Accelerator:
    """`large.launch` on CPUs: accelerate has DeepSpeed there only with a backend that is named."""
    return Accelerator(mixed_precision=precision, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])


if __name__ == "__main__":
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it compiles for minutes
    with mock.patch("align.train.launch", launch):
        toy_run.run(sys.argv[1])
    leave()
