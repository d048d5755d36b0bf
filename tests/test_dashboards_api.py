"""What the labeling screen may say to the server, and what strangers may not."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from core import preferences_people, video
from core.preferences import Store
from dashboards.labeling import api, entry


@pytest.fixture
def store(tmp_path: Path, clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> Store:
    """Four pairs of one vote each; file names tell the model. The door is open to names."""
    store = Store(tmp_path / "preferences.db")
    for index in range(4):
        ids = []
        for name in ("secretbase", "secretaligned"):
            path = tmp_path / f"{index}-{name}.mp4"
            video.write(path, clip[: 3 + index + (name == "secretbase")], 8.0)
            ids.append(store.add_video(path, model=name))
        store.add_pair(f"prompt {index} <b>", *ids)
    monkeypatch.setattr(sys, "argv", ["label.py", str(store.path)])
    return store


@pytest.fixture
def client() -> TestClient:
    routes = [Route(path, act, methods=["POST"]) for path, act in ((api.ROUTE, api.act), (api.DOOR, api.enter))]
    return TestClient(Starlette(routes=routes), cookies={entry.cookie(): entry.sealed("Ada", "")})


def body(*actions: dict[str, Any], name: str = "Ada") -> dict[str, Any]:
    return {"who": {"annotator": name, "project": "default"}, "actions": list(actions)}


def comes_as(client: TestClient, name: str, token: str = "") -> None:
    client.cookies = {entry.cookie(): entry.sealed(name, token)}  # type: ignore[assignment]


def test_an_answer_brings_the_next_pairs(store: Store, client: TestClient) -> None:
    before = client.post(api.ROUTE, json=body()).json()
    assert len(before["queue"]) == 3 and before["progress"]["done"] == 0 and before["last"] is None
    lease = before["queue"][0]["lease"]
    answer = {"id": 7, "lease": lease, "answers": {"overall": "left"}, "seconds": 3.0, "watched": 1.0}
    after = client.post(api.ROUTE, json=body(answer)).json()
    assert (after["acknowledged"], after["last"], after["notice"]) == (7, lease, None)
    assert [pair["lease"] for pair in after["queue"]][:2] == [pair["lease"] for pair in before["queue"]][1:]
    assert client.post(api.ROUTE, json=body(answer)).json()["acknowledged"] == 7 and len(store.votes()) == 1
    undone = client.post(api.ROUTE, json=body({"id": 8, "undo": lease})).json()
    assert undone["queue"][0]["lease"] == lease and store.votes() == []


def test_no_pairs_yet_is_not_the_same_as_none_left(store: Store, client: TestClient) -> None:
    for _ in range(4):
        store.label(store.queue("Ben", 1)[0].id, "Ben", {"overall": "tie"})
    none_left = client.post(api.ROUTE, json=body()).json()
    assert (none_left["queue"], none_left["empty"]) == ([], False)
    store.add_project("later", ["overall"])
    asked = body() | {"who": {"annotator": "Ada", "project": "later"}}
    assert client.post(api.ROUTE, json=asked).json()["empty"]


def test_a_reply_is_blind(store: Store, client: TestClient, tmp_path: Path) -> None:
    text = client.post(api.ROUTE, json=body()).text
    assert "secret" not in text and str(tmp_path) not in text and "left_is" not in text and "gold" not in text


def test_people_who_may_not_come_in_record_nothing(store: Store, client: TestClient) -> None:
    token = preferences_people.invite(store, "Ada")
    lease = store.queue("Ada", 1)[0].id
    answer = {"id": 1, "lease": lease, "answers": {"overall": "left"}}
    for name, key in (("Ada", ""), ("Ada", "wrong"), ("", ""), ("admin", "x"), ("A" * 70, "")):
        comes_as(client, name, key)
        assert client.post(api.ROUTE, json=body(answer, name=name)).status_code == 403
    comes_as(client, "Ben")
    assert client.post(api.ROUTE, json=body(answer, name="Ben")).json()["notice"].startswith("Not recorded: lease")
    assert store.votes() == []
    comes_as(client, "Ada", token)
    assert client.post(api.ROUTE, json=body(answer)).json()["acknowledged"] == 1
    assert len(store.votes()) == 1


def test_name_and_token_become_a_cookie_that_only_the_server_reads(store: Store, client: TestClient) -> None:
    token = preferences_people.invite(store, "Ada")
    client.cookies.clear()
    refused = client.post(api.DOOR, json={"annotator": "Ada", "token": "wrong"})
    assert refused.status_code == 403 and "do not belong together" in refused.json()["error"] and not client.cookies
    assert client.post(api.DOOR, json={"annotator": "Ada", "token": token, "project": "none"}).status_code == 403
    entered = client.post(api.DOOR, json={"annotator": " Ada ", "token": token})
    assert entered.status_code == 204
    kept = entered.headers["set-cookie"].lower()
    assert "httponly" in kept and "samesite=strict" in kept and token.lower() not in kept and "secure" not in kept
    assert client.post(api.ROUTE, json=body()).json()["annotator"] == "Ada"
    preferences_people.invite(store, "Ada")  # a new invitation ends the old one at once
    assert client.post(api.ROUTE, json=body()).status_code == 403
    assert client.post(api.DOOR, json={"annotator": ""}).status_code == 204 and not client.cookies


def test_a_screen_of_somebody_who_has_left_records_nothing_for_who_came_after(store: Store, client: TestClient) -> None:
    lease = client.post(api.ROUTE, json=body()).json()["queue"][0]["lease"]
    client.post(api.DOOR, json={"annotator": "Ben"})
    answer = {"id": 1, "lease": lease, "answers": {"overall": "left"}}
    refused = client.post(api.ROUTE, json=body(answer))
    assert refused.status_code == 403 and "labels as Ben now" in refused.json()["error"] and store.votes() == []


def test_a_cookie_is_read_back_as_it_was_and_rubbish_is_nobody(store: Store) -> None:
    for name, token in (("Ada", "t=k"), ("Åsa \u4e2d; =", ""), ("a" * 60, "b")):
        assert entry.credentials({entry.cookie(): entry.sealed(name, token)}) == (name, token)
    for value in ("", "x", "\xff", "W10", "bnVsbA", "eyJhIjogMX0", "WzEsMiwzXQ"):  # [], null, {"a": 1}, [1, 2, 3]
        assert entry.credentials({entry.cookie(): value}) == ("", "")


def test_other_sites_and_odd_messages_are_refused(store: Store, client: TestClient) -> None:
    text = json.dumps(body())
    plain = {"content-type": "text/plain"}  # what a page of another site can send without asking
    kind = {"content-type": "application/json"}
    assert client.post(api.ROUTE, content=text, headers=plain).status_code == 415
    assert client.post(api.ROUTE, content=text, headers=kind | {"origin": "http://evil.example"}).status_code == 403
    assert client.post(api.ROUTE, content=text, headers=kind | {"origin": "http://testserver"}).status_code == 200
    assert client.post(api.ROUTE, content="x" * (api.MAX_BODY + 1), headers=kind).status_code == 413
    for odd in (
        "",
        "[]",
        "{}",
        '{"who": 1, "actions": []}',
        '{"who": {"annotator": "Ada"}, "actions": []}',
        '{"actions": []}',
        "\xff",
    ):
        assert client.post(api.ROUTE, content=odd.encode("latin-1"), headers=kind).status_code == 400
    assert client.get(api.ROUTE).status_code == 405


def test_a_store_that_cannot_be_written_is_said_and_the_answer_can_come_again(store: Store, client: TestClient) -> None:
    lease = client.post(api.ROUTE, json=body()).json()["queue"][0]["lease"]
    answer = {"id": 1, "lease": lease, "answers": {"overall": "left"}}
    with entry.open_store(sys.argv[1], ".").transaction() as connection:
        pass
    connection.execute("PRAGMA query_only = 1")
    refused = client.post(api.ROUTE, json=body(answer))
    assert refused.status_code == 503 and "cannot be written" in refused.json()["error"]
    connection.execute("PRAGMA query_only = 0")
    assert client.post(api.ROUTE, json=body(answer)).json()["acknowledged"] == 1
    assert len(store.votes()) == 1
