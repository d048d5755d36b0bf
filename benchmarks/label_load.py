"""Many annotators at the real labeling app: how long the server takes from an answer to the next pair.

    python benchmarks/label_load.py [--annotators 50] [--seconds 300] [--think 6]

Each annotator opens the page over a websocket that speaks Streamlit's own protocol and keeps it open, thinks, answers
the pair at the head of the queue as the screen does, and gets the next ones back. The time is that of this exchange,
seen from the annotator. Every acknowledged answer is looked for in the store afterwards. Server and annotators share
the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import requests
from store_speed import fill
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from core.preferences import Store
from dashboards.labeling.api import DOOR

ARRIVAL = 30.0  # seconds; opening a page costs much more than answering a pair


class Annotator:
    """One tab. `waits` as (when, how long) in seconds; `acknowledged`: the leases whose answers the server has."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self.waits: list[tuple[float, float]] = []
        self.acknowledged: list[int] = []
        self.session = requests.Session()
        self.cookie = ""

    async def label(self, think: float, until: float) -> None:
        """Answer pair after pair."""
        random = np.random.default_rng(sum(self.name.encode()))
        await asyncio.to_thread(self._enter)
        async with self.page() as socket:
            data = await self._open(socket)
            number = 0
            while time.monotonic() < until and data["queue"]:
                await asyncio.sleep(random.exponential(think))
                number += 1
                lease = data["queue"][0]["lease"]
                action = {
                    "id": number,
                    "lease": lease,
                    "answers": {"overall": "left"},
                    "seconds": think,
                    "watched": 1.0,
                }
                start = time.perf_counter()
                data = await asyncio.to_thread(self._post, data | {"actions": [action]})
                self.waits.append((time.monotonic(), time.perf_counter() - start))
                assert data["acknowledged"] == number and data["notice"] is None, data["notice"]
                self.acknowledged.append(lease)

    def page(self) -> connect:
        """The websocket that a browser opens with the page."""
        return connect(
            f"ws://{self.address}/_stcore/stream",
            subprotocols=[Subprotocol("streamlit")],
            additional_headers={"Cookie": self.cookie},
            open_timeout=60,
        )

    def _enter(self) -> None:
        """Give a name at the door."""
        entered = self.session.post(f"http://{self.address}{DOOR}", json={"annotator": self.name}, timeout=60)
        entered.raise_for_status()
        self.cookie = "; ".join(f"{name}={value}" for name, value in self.session.cookies.items())

    async def _open(self, socket: ClientConnection) -> dict[str, Any]:
        """What the page tells the screen when it is opened."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        await socket.send(message.SerializeToString())
        data = {}
        async for received in socket:
            forward = ForwardMsg()
            forward.ParseFromString(received)  # type: ignore[arg-type]
            kind = forward.WhichOneof("type")
            if kind == "delta" and forward.delta.new_element.WhichOneof("type") == "bidi_component":
                told = json.loads(forward.delta.new_element.bidi_component.json)
                data = told if "queue" in told else data
            elif kind == "script_finished":
                break
        self.who, self.route = data["who"], data["route"]
        return data

    def _post(self, data: dict[str, Any]) -> dict[str, Any]:
        body = {"who": self.who, "actions": data["actions"]}
        try:
            response = self.session.post(f"http://{self.address}{self.route}", json=body, timeout=60)
        except requests.ConnectionError:  # the server hung up on an idle connection; the screen sends again, too
            response = self.session.post(f"http://{self.address}{self.route}", json=body, timeout=60)
        response.raise_for_status()
        return response.json()


async def label_all(address: str, count: int, think: float, seconds: float) -> list[Annotator]:
    """All annotators at once, after they have come in one after the other over `ARRIVAL` seconds."""
    annotators = [Annotator(address, f"annotator-{number}") for number in range(count)]
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))
    until = time.monotonic() + ARRIVAL + seconds

    async def arrive(number: int) -> None:
        await asyncio.sleep(ARRIVAL * number / count)
        await annotators[number].label(think, until)

    await asyncio.gather(*(arrive(number) for number in range(count)))
    return annotators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--think", type=float, default=6.0, help="mean seconds an annotator looks at a pair")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "load.db")
        fill(store, Path(folder), int(options.annotators * ((options.seconds + ARRIVAL) / options.think + 10)))
        command = [sys.executable, "-m", "dashboards", "label", "--store", str(store.path), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert server.stdout is not None
            address = next(found.group(1) for line in server.stdout if (found := re.search(r"http://(\S+)", line)))
            annotators = asyncio.run(label_all(address, options.annotators, options.think, options.seconds))
        finally:
            server.terminate()
            server.wait(30)
        acknowledged = sorted(lease for annotator in annotators for lease in annotator.acknowledged)
        assert len(acknowledged) == len(set(acknowledged)) == len(store.votes()), "an answer was lost or doubled"
        end = max(when for annotator in annotators for when, _ in annotator.waits)
        waits = [(wait * 1000, end - when > options.seconds) for one in annotators for when, wait in one.waits]
        figures: dict[str, float] = {
            "annotators": options.annotators,
            "seconds": options.seconds,
            "answers": len(waits),
            "errors": 0,
        }
        for phase, is_early in (("arriving", True), ("labeling", False)):
            some = [wait for wait, early in waits if early == is_early]
            if some:
                p50, p95 = (round(float(np.percentile(some, q)), 1) for q in (50, 95))
                figures |= {f"{phase}_p50_milliseconds": p50, f"{phase}_p95_milliseconds": p95}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
