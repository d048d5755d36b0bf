"""A reward behind a real HTTP server on a free port, met by the real client and by hostile bytes."""

import contextlib
import dataclasses
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import requests
import torch
import uvicorn

import reward
from core.errors import UserError
from reward.protocol import Reward, Scores
from reward.remote import RemoteReward
from reward.server import Limits, application
from reward.simple import Formula, brightness, motion
from reward.wire import MAGIC, WireError, heard, pack, told, unpack

PROMPTS = ["a red ball", "a blue square \N{SNOWMAN}", "x"]
QUICK = {"pause_seconds": 0.0, "retries": 2}


def _frames(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def serving(judge: Reward, token: str | None = None, limits: Limits | None = None) -> Iterator[str]:
    """The URL of a running server."""
    config = uvicorn.Config(application(judge, token, limits), port=0, log_level="error")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        requests.get(f"{url}/health", timeout=10)  # the socket listens already, so this waits for the loop
        yield url
    finally:
        server.should_exit = True
        thread.join(10)


@dataclasses.dataclass(frozen=True)
class Counting(Formula):
    """Notes the size of every call, fails for the prompt "fail", and cannot judge the prompt "x"."""

    name: str = "counting"
    unit: str = "mean pixel"
    formula: Callable[[torch.Tensor, Sequence[str]], torch.Tensor] = brightness().formula
    calls: list[int] = dataclasses.field(default_factory=list)
    gate: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __call__(self, frames: torch.Tensor, prompts: Sequence[str]) -> Scores:
        self.calls.append(len(prompts))
        self.gate.wait(5)
        if "fail" in prompts:
            raise RuntimeError("out of luck")
        total = self.formula(frames, prompts)
        blank = torch.tensor([text == "x" for text in prompts])
        return Scores(total.masked_fill(blank, math.nan), {"half": total / 2})


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_frames_and_prompts_come_back_from_the_wire(dtype: str) -> None:
    frames, prompts = unpack(pack(_frames(), PROMPTS, dtype))
    assert prompts == PROMPTS
    off = (frames - _frames()).abs().max()
    assert off <= {"uint8": 0.5 / 255 + 1e-6, "float16": 1e-3, "float32": 0}[dtype]


def test_scores_come_back_from_json_to_the_last_bit() -> None:
    scores = Scores(torch.tensor([1 / 3, math.nan, -2e-30]), {"part": torch.tensor([0.1, 0.2, 0.3])})
    again = heard(told(scores), 3)
    torch.testing.assert_close(again.total, scores.total, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(again.parts["part"], scores.parts["part"])


def _spoilt() -> dict[str, bytes]:
    whole = pack(_frames(), PROMPTS)
    prefix = struct.Struct("<4sI")
    return {
        "empty": b"",
        "another magic": b"\x80\x04\x95." + whole[4:],
        "a header longer than the body": prefix.pack(MAGIC, 1 << 19) + b"{}",
        "a header of gigabytes": prefix.pack(MAGIC, 1 << 31) + b"{}",
        "no JSON": prefix.pack(MAGIC, 3) + b"}{}",
        "a list": prefix.pack(MAGIC, 2) + b"[]",
        "a dtype that runs code": whole.replace(b'"uint8"', b'"object"'),
        "cut short": whole[:-1],
        "one byte more": whole + b"\0",
        "four channels": whole.replace(b"[3, 4, 3, 8, 8]", b"[3, 3, 4, 8, 8]"),
        "a negative size": whole.replace(b"[3, 4, 3, 8, 8]", b"[3,-4, 3,-8, 8]"),
        "too few prompts": whole.replace(b'", "x"]', b'_____"]'),
    }


@pytest.mark.parametrize("case", _spoilt())
def test_hostile_bytes_are_refused_in_one_line(case: str) -> None:
    with pytest.raises(WireError) as error:
        unpack(_spoilt()[case])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reply", [None, [], {"total": [1.0]}, {"total": [1.0], "parts": {}}, {"total": "ab", "parts": {}}]
)
def test_replies_that_hold_no_scores_are_refused(reply: object) -> None:
    with pytest.raises(WireError):
        heard(reply, 2)


def test_a_remote_score_equals_the_local_one() -> None:
    with serving(motion()) as url:
        remote = RemoteReward([url], dtype="float32", chunk=2)
        assert torch.equal(remote(_frames(), PROMPTS).total, motion()(_frames(), PROMPTS).total)
        assert (remote.name, remote.range, remote.differentiable) == ("motion", (0.0, 1.0), False)
        small = RemoteReward([url])
        torch.testing.assert_close(
            small(_frames(), PROMPTS).total, motion()(_frames(), PROMPTS).total, atol=4e-3, rtol=0
        )
        assert reward.load(url).name == "motion" and reward.load(f"{url},{url}").name == "motion"


def test_several_servers_share_the_load_and_a_lost_one_is_replaced() -> None:
    first, second = Counting(), Counting()
    first.gate.set()
    second.gate.set()
    with serving(first) as one:
        with serving(second) as two:
            remote = RemoteReward([one, two], chunk=1, **QUICK)
            total = remote(_frames(), PROMPTS).total
            assert sum(first.calls) == 2 and sum(second.calls) == 1
            assert torch.isfinite(total).tolist() == [True, True, False]
        assert torch.isfinite(remote(_frames(), ["a", "b", "c"]).total).all()
        assert sum(first.calls) == 5


def test_when_every_server_fails_its_videos_are_missing_and_the_others_scored() -> None:
    judge = Counting()
    judge.gate.set()
    with serving(judge) as url:
        remote = RemoteReward([url], chunk=1, **QUICK)
        with pytest.warns(RuntimeWarning, match="1 videos were not judged.*500"):
            scores = remote(_frames(), ["a", "fail", "b"])
    assert torch.isfinite(scores.total).tolist() == [True, False, True]
    assert torch.isfinite(scores.parts["half"]).tolist() == [True, False, True]
    with pytest.warns(RuntimeWarning, match="not judged"):
        assert torch.isnan(remote(_frames(), PROMPTS).total).all()  # the server is gone


def test_requests_that_wait_together_are_judged_together_and_a_bad_one_fails_alone() -> None:
    judge = Counting()
    with serving(judge, limits=Limits(wait_seconds=0.2)) as url:
        replies: dict[str, int] = {}

        def send(prompt: str) -> None:
            replies[prompt] = requests.post(f"{url}/score", pack(_frames(1), [prompt])).status_code

        threads = [threading.Thread(target=send, args=(prompt,)) for prompt in ("a", "fail", "b")]
        for thread in threads:
            thread.start()
        judge.gate.set()
        for thread in threads:
            thread.join(10)
    assert max(judge.calls) > 1
    assert replies == {"a": 200, "fail": 500, "b": 200}


def test_a_large_request_is_judged_in_batches_and_sizes_are_not_mixed() -> None:
    judge = Counting()
    judge.gate.set()
    with serving(judge, limits=Limits(max_batch=2)) as url:
        remote = RemoteReward([url], chunk=5)
        assert torch.isfinite(remote(_frames(5), list("abcde")).total).all()
        assert judge.calls == [2, 2, 1]
        assert torch.isfinite(remote(torch.rand(1, 2, 3, 4, 6), ["a"]).total).all()


def test_the_token_is_asked_for_but_not_for_health() -> None:
    with serving(motion(), token="secret") as url:
        assert requests.get(f"{url}/health").json()["status"] == "ok"
        assert requests.post(f"{url}/score", pack(_frames(), PROMPTS)).status_code == 401
        with pytest.raises(UserError, match="401: the token is missing or wrong"):
            RemoteReward([url], token="guess", **QUICK)(_frames(), PROMPTS)
        assert torch.isfinite(RemoteReward([url], token="secret")(_frames(), PROMPTS).total).all()


def test_sizes_are_limited_with_and_without_a_declared_length() -> None:
    with serving(motion(), limits=Limits(max_bytes=100)) as url:
        body = pack(_frames(), PROMPTS)
        assert requests.post(f"{url}/score", body).status_code == 413
        assert requests.post(f"{url}/score", iter([body[:80], body[80:]])).status_code == 413  # chunked
        assert requests.post(f"{url}/score", b"junk").status_code == 400
        with pytest.raises(UserError, match="413"):
            RemoteReward([url], **QUICK)(_frames(), PROMPTS)


def test_more_requests_than_the_line_holds_are_told_to_come_again() -> None:
    judge = Counting()
    with serving(judge, limits=Limits(max_waiting=1, max_batch=1, wait_seconds=0.0)) as url:
        codes: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: codes.append(requests.post(f"{url}/score", pack(_frames(1), ["a"])).status_code)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while 503 not in codes:  # one is judged, one waits, the others are refused
            pass
        judge.gate.set()
        for thread in threads:
            thread.join(10)
    assert set(codes) == {200, 503}


def test_servers_of_different_rewards_and_strangers_are_refused() -> None:
    with serving(motion()) as one, serving(brightness()) as two:
        with pytest.raises(UserError, match="must share one reward"):
            RemoteReward([one, two])
        with pytest.raises(UserError, match="is no reward server"):
            RemoteReward([f"{one}/elsewhere"])
    with pytest.raises(UserError, match="no reward server answers"):
        RemoteReward([one])
