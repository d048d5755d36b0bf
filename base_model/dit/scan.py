"""A state-space mixer: a linear recurrence over the tokens whose gates depend on the input, in both directions.

    h_i = exp(delta_i A) h_{i-1} + delta_i B_i u_i        y_i = C_i h_i + D u_i

Cost grows with the number of tokens, not its square. On CUDA the kernel of `mamba_ssm` is used where that package is
installed, elsewhere plain torch: token by token on a CPU, by doubling on other devices, where many small steps are
slow. Letters: B batch, N token, D width, S state. Source: Mamba (Gu & Dao 2023, algorithm 2); both directions as in
Vision Mamba (Zhu et al. 2024).
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scan_loop(decay: Tensor, drive: Tensor) -> Tensor:
    """h_i = decay_i h_{i-1} + drive_i along dim 1, h_{-1} = 0: the definition, token by token."""
    state, states = torch.zeros_like(drive[:, 0]), []
    for now, new in zip(decay.unbind(1), drive.unbind(1), strict=True):
        state = torch.addcmul(new, now, state)
        states.append(state)
    return torch.stack(states, dim=1)


def scan_doubling(decay: Tensor, drive: Tensor) -> Tensor:
    """`scan_loop` in log2(n) steps: after each, h_i holds twice as many tokens before it (Hillis & Steele 1986)."""
    step, count = 1, drive.shape[1]
    while step < count:
        drive = torch.cat([drive[:, :step], drive[:, step:] + decay[:, step:] * drive[:, :-step]], dim=1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], dim=1)
        step *= 2
    return drive


class _Scan(torch.autograd.Function):
    """The gradient is a scan from the end: g_i + decay_{i+1} G_{i+1}. Only decay and states are kept for it."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor) -> Tensor:
        states = (scan_loop if drive.device.type == "cpu" else scan_doubling)(decay, drive)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = ctx.saved_tensors
        later = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1)
        scan_any = scan_loop if decay.device.type == "cpu" else scan_doubling
        total = scan_any(later.flip(1), grads[0].flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        return total * before, total


def scan(decay: Tensor, drive: Tensor) -> Tensor:
    """`scan_loop` with a gradient that does not keep every step."""
    return cast(Tensor, _Scan.apply(decay, drive))


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    """`mamba_ssm`'s fused scan, None where the package is not installed."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn


def scan_by(kernel: Callable[..., Any], u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """`selective_scan` by `mamba_ssm`'s kernel, which wants tokens last: u, delta [B, D, N], b, c [B, S, N]."""
    u_, delta_, b_, c_ = (part.mT.contiguous() for part in (u, delta, b, c))
    return kernel(u_, delta_, a.float(), b_, c_, d.float()).mT


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """y [B, N, D] of the recurrence above.

    Args:
        u, delta: [B, N, D], delta > 0. a: [D, S], below 0. b, c: [B, N, S]. d: [D].
    """
    if u.is_cuda and (kernel := _kernel()) is not None:
        return scan_by(kernel, u, delta, a, b, c, d)
    states = scan(torch.exp(delta[..., None] * a), (delta * u)[..., None] * b[:, :, None])
    return (states @ c[..., None])[..., 0] + d * u


class Direction(nn.Module):
    """One pass over tokens [B, N, D]: a short causal convolution, gates from its output, the scan."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.state, self.rank = state, max(1, width // 16)
        self.conv = nn.Conv1d(width, width, 4, groups=width)
        self.gates = nn.Linear(width, self.rank + 2 * state, bias=False)
        self.delta = nn.Linear(self.rank, width)
        self.log_a = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(width, 1))
        self.through = nn.Parameter(torch.ones(width))
        # softplus of the bias is the time constant at the start, evenly spread over .001 to .1 on a log scale.
        start = torch.logspace(math.log10(1e-3), math.log10(0.1), width)
        self.delta.bias.data = start + torch.log(-torch.expm1(-start))

    def forward(self, x: Tensor) -> Tensor:
        u = F.silu(self.conv(F.pad(x.mT, (3, 0))).mT)
        rank, b, c = self.gates(u).split([self.rank, self.state, self.state], dim=-1)
        delta = F.softplus(self.delta(rank).float())
        y = selective_scan(u.float(), delta, -self.log_a.float().exp(), b.float(), c.float(), self.through.float())
        return y.to(x.dtype)


class ScanMixer(nn.Module):
    """Tokens [B, N, D] mixed forwards and backwards, gated, joined."""

    def __init__(self, width: int, state: int = 8) -> None:
        super().__init__()
        self.to_in = nn.Linear(width, 2 * width)
        self.forwards, self.backwards = Direction(width, state), Direction(width, state)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.to_in(x).chunk(2, dim=-1)
        y = self.forwards(u) + self.backwards(u.flip(1)).flip(1)
        return self.to_out(y * F.silu(gate))
