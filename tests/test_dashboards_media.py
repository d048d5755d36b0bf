"""Clips behind opaque names: only what was asked for, only videos, in ranges."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from core import video
from core.errors import UserError
from dashboards import media, server


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> media.Library:
    library = media.Library()
    monkeypatch.setattr(media, "LIBRARY", library)
    return library


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=[Route(f"{media.ROUTE}/{{name}}", server.send_clip)]))


@pytest.fixture
def path(tmp_path: Path, clip: NDArray[np.float32]) -> Path:
    video.write(tmp_path / "aligned-model.mp4", clip, 8.0)
    return tmp_path / "aligned-model.mp4"


def test_a_clip_is_sent_in_ranges(library: media.Library, client: TestClient, path: Path) -> None:
    url = library.add(path).url
    whole = client.get(url)
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert whole.content == path.read_bytes() and whole.headers["content-type"] == "video/mp4"
    assert part.status_code == 206 and part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"


def test_a_name_tells_nothing_about_its_file(library: media.Library, path: Path) -> None:
    url = library.add(path).url
    assert "aligned" not in url and len(url.rsplit("/", 1)[1]) == 32
    assert media.Library().add(path).url != url  # another process, another name


def test_adding_twice_gives_the_same_name(library: media.Library, path: Path) -> None:
    assert library.add(path) == library.add(path)


@pytest.mark.parametrize("name", ["0" * 32, "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd"])
def test_nothing_else_can_be_fetched(library: media.Library, client: TestClient, path: Path, name: str) -> None:
    library.add(path)
    assert client.get(f"{media.ROUTE}/{name}").status_code == 404


def test_files_that_are_no_videos_are_refused(library: media.Library, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_text("root:x:0:0")
    with pytest.raises(UserError):
        library.add(tmp_path / "secret.mp4")
    with pytest.raises(UserError, match="No such file"):
        library.add(tmp_path / "missing.mp4")


def test_a_replaced_file_gets_a_new_name(library: media.Library, path: Path, clip: NDArray[np.float32]) -> None:
    before = library.add(path)
    video.write(path, clip[:3], 8.0)
    after = library.add(path)
    assert before.url != after.url and after.num_frames == 3


def test_what_a_browser_cannot_play_is_rewritten(library: media.Library, client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for value in (0, 120, 240):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert not video.probe(path).plays_in_browser
    sent = client.get(library.add(path).url)
    (tmp_path / "sent.mp4").write_bytes(sent.content)
    info = video.probe(tmp_path / "sent.mp4")
    assert info.plays_in_browser and info.num_frames == 3
    library.close()
    assert client.get(library.add(path).url).status_code == 404
