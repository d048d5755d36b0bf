"""A reward behind HTTP, so that a heavy judge lives in its own process, on its own device or machine.

POST /score takes the request of `wire.py` and answers with scores; GET /health says which reward answers and how much
waits. Requests of one video size that wait together are judged in one call. Nothing a client sends is ever executed:
bytes are checked, sizes are limited before they are read, the token is compared in constant time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from torch import Tensor

from core.errors import first_line
from reward.protocol import Reward, Scores
from reward.wire import WireError, told, unpack


@dataclass(frozen=True)
class Limits:
    """max_bytes: of one request; max_waiting: requests in line, further ones get 503; max_batch: videos judged at once;
    wait_seconds: how long a request waits for others to be judged with; device: where frames are judged."""

    max_bytes: int = 1 << 30
    max_waiting: int = 64
    max_batch: int = 32
    wait_seconds: float = 0.01
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """One request in line: frames [batch, time, 3, height, width], prompts, and where its scores are awaited."""

    frames: Tensor
    prompts: list[str]
    done: asyncio.Future[Scores]


def application(reward: Reward, token: str | None = None, limits: Limits | None = None) -> Starlette:
    """The ASGI application. Args: token: asked for on /score as "Authorization: Bearer TOKEN"; None asks for none."""
    return _Service(reward, token, limits or Limits()).application()


class _Service:
    def __init__(self, reward: Reward, token: str | None, limits: Limits) -> None:
        self.reward, self.token, self.limits = reward, token, limits
        self.line: asyncio.Queue[Job] = asyncio.Queue(limits.max_waiting)

    def application(self) -> Starlette:
        routes = [Route("/health", self.health), Route("/score", self.score, methods=["POST"])]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._work())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def health(self, request: Request) -> JSONResponse:
        one = self.reward
        about: dict[str, Any] = {
            "name": one.name,
            "version": one.version,
            "unit": one.unit,
            "aspects": list(one.aspects),
        }
        about |= {"range": [str(end) for end in one.range], "higher_is_better": one.higher_is_better}
        return JSONResponse({"status": "ok", "waiting": self.line.qsize(), "reward": about})

    async def score(self, request: Request) -> JSONResponse:
        given = request.headers.get("authorization", "").encode()
        if self.token is not None and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return _refused(401, "the token is missing or wrong")
        body = await _body(request, self.limits.max_bytes)
        if body is None:
            return _refused(413, f"a request may have {self.limits.max_bytes} bytes; send fewer videos at once")
        try:
            frames, prompts = await asyncio.to_thread(unpack, body)
        except WireError as error:
            return _refused(400, str(error))
        job = Job(frames, prompts, asyncio.get_running_loop().create_future())
        try:
            self.line.put_nowait(job)
        except asyncio.QueueFull:
            return _refused(503, f"{self.limits.max_waiting} requests wait already; try again", {"Retry-After": "1"})
        try:
            return JSONResponse(told(await job.done))
        except Exception as error:  # whatever a reward trips over is the reward's; the server lives on
            return _refused(500, f"{self.reward.name} failed: {type(error).__name__}: {first_line(error)}")

    async def _work(self) -> None:
        """Judge what waits, forever, one call of the reward at a time."""
        held: Job | None = None
        while True:
            jobs = [held or await self.line.get()]
            held = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.limits.wait_seconds):
                    while sum(len(job.prompts) for job in jobs) < self.limits.max_batch:
                        job = await self.line.get()
                        if job.frames.shape[1:] != jobs[0].frames.shape[1:]:
                            held = job  # of another size: it opens the next batch
                            break
                        jobs.append(job)
            await self._judge(jobs)

    async def _judge(self, jobs: Sequence[Job]) -> None:
        try:
            scores = await asyncio.to_thread(self._scores, jobs)
        except Exception as error:
            if len(jobs) > 1:  # one bad request must not take its neighbours along
                for job in jobs:
                    await self._judge([job])
            elif not jobs[0].done.done():
                jobs[0].done.set_exception(error)
            return
        start = 0
        for job in jobs:
            rows = slice(start, start + len(job.prompts))
            start = rows.stop
            if not job.done.done():  # the client may have gone
                job.done.set_result(
                    Scores(scores.total[rows], {name: values[rows] for name, values in scores.parts.items()})
                )

    @torch.no_grad()
    def _scores(self, jobs: Sequence[Job]) -> Scores:
        """Scores of all jobs, in calls of `max_batch` videos."""
        frames, prompts = torch.cat([job.frames for job in jobs]), [text for job in jobs for text in job.prompts]
        size = self.limits.max_batch
        found = [
            self.reward(frames[start : start + size].to(self.limits.device), prompts[start : start + size])
            for start in range(0, len(prompts), size)
        ]
        parts = {name: torch.cat([one.parts[name] for one in found]) for name in found[0].parts}
        return Scores(torch.cat([one.total for one in found]), parts)


async def _body(request: Request, max_bytes: int) -> bytearray | None:
    """The body, or None when it is longer than allowed; no more than that is ever held."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        return None
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            return None
        body += chunk
    return body


def _refused(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": line}, status, headers)
