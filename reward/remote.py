"""A reward that lives behind one or several reward servers (`soralign reward serve`).

A batch is cut into requests that the servers share. A request that fails is tried again at the next server; when every
try failed its videos score NaN, so a lost judge costs some videos and not the run. What no retry can mend (a wrong
token, videos above the size limit) is an error at once.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
import torch
from torch import Tensor

from core.errors import UserError
from reward.protocol import Scores, check, only_finite
from reward.wire import DTYPES, WireError, heard, pack

TOKEN = "SORALIGN_REWARD_TOKEN"  # environment variable; a token on a command line would be in every process list


class RemoteReward:
    """Rewards as a `Reward`; carries no gradient.

    Args:
        urls: of servers of one and the same reward, as "http://127.0.0.1:8700".
        token: the servers' token; None takes the environment variable SORALIGN_REWARD_TOKEN, if there is one.
        dtype: of frames on the wire. "uint8" is what a viewer sees at a quarter of the bytes; "float32" is exact.
        chunk: videos in one request.
        timeout_seconds: for one answer. retries: further tries after the first, each at the next server.
        pause_seconds: before the first retry, doubled before each further one.
    Raises: UserError when no server answers, when one is no reward server, or when they serve different rewards.
    """

    differentiable = False

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None = None,
        *,
        dtype: str = "uint8",
        chunk: int = 8,
        timeout_seconds: float = 120.0,
        retries: int = 3,
        pause_seconds: float = 0.5,
    ) -> None:
        if not urls or dtype not in DTYPES or chunk < 1:
            raise UserError(f"a remote reward needs a URL, a dtype of {', '.join(DTYPES)} and a chunk above 0")
        self.urls = [url.rstrip("/") for url in urls]
        self.dtype, self.chunk, self.retries = dtype, chunk, retries
        self.timeout_seconds, self.pause_seconds = timeout_seconds, pause_seconds
        token = token if token is not None else os.environ.get(TOKEN)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        about = self._about()
        self.name, self.version, self.unit = str(about["name"]), str(about["version"]), str(about["unit"])
        self.range = (float(about["range"][0]), float(about["range"][1]))
        self.higher_is_better, self.aspects = bool(about["higher_is_better"]), tuple(map(str, about["aspects"]))

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        starts = range(0, len(prompts), self.chunk)
        rows = [slice(start, start + self.chunk) for start in starts]
        # As many at once as there are servers: a server judges one batch at a time anyhow.
        with ThreadPoolExecutor(len(self.urls)) as pool:
            found = list(pool.map(lambda n: self._ask(n, frames[rows[n]], prompts[rows[n]]), range(len(rows))))
        names = list(dict.fromkeys(name for scores in found for name in scores.parts))
        parts = {
            name: torch.cat([scores.parts.get(name, torch.full_like(scores.total, math.nan)) for scores in found])
            for name in names
        }
        # uint8 cannot say "not a number".
        return Scores(
            only_finite(torch.cat([scores.total for scores in found]).to(frames.device), frames),
            {name: only_finite(values.to(frames.device), frames) for name, values in parts.items()},
        )

    def _ask(self, number: int, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores of one request, or NaN for all its videos after the last try."""
        body = pack(frames, prompts, self.dtype)
        trouble = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            url = self.urls[(number + attempt) % len(self.urls)]
            try:
                reply = requests.post(f"{url}/score", body, headers=self.headers, timeout=self.timeout_seconds)
                if reply.status_code == 200:
                    return heard(reply.json(), len(prompts))
                trouble = f"{url} answered {reply.status_code}: {_line(reply)}"
            except (requests.RequestException, WireError) as error:
                trouble = f"{url}: {type(error).__name__}"
                continue
            if 400 <= reply.status_code < 500:
                raise UserError(f"reward server {trouble}")
        warnings.warn(f"{len(prompts)} videos were not judged: {trouble}", RuntimeWarning, stacklevel=4)
        return Scores(torch.full((len(prompts),), math.nan), {})

    def _about(self) -> dict[str, Any]:
        """What the servers say of their reward; those that do not answer yet are left to the retries."""
        answers: dict[str, dict[str, Any]] = {}
        for url in self.urls:
            try:
                about = requests.get(f"{url}/health", timeout=10).json()["reward"]
                answers[url] = {key: about[key] for key in ("name", "version", "unit", "range", "aspects")} | {
                    "higher_is_better": about["higher_is_better"]
                }
            except (requests.ConnectionError, requests.Timeout):
                continue
            except (requests.RequestException, ValueError, KeyError, TypeError):
                raise UserError(f"{url} is no reward server; start one with `soralign reward serve`") from None
        if not answers:
            raise UserError(
                f"no reward server answers at {', '.join(self.urls)}; start it with `soralign reward serve`"
            )
        first, *others = answers
        for other in others:
            if answers[other] != answers[first]:
                raise UserError(
                    f"{first} serves {answers[first]['name']} {answers[first]['version']}, {other} serves "
                    f"{answers[other]['name']} {answers[other]['version']}; servers must share one reward"
                )
        return answers[first]


def _line(reply: requests.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return reply.reason
