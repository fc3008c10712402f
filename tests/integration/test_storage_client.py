"""The client of the Storage Server, against one like the NRP's proxy and against the gateway's own."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nrp_common.clone_cache import CloneCache
from nrp_common.errors import (
    ExperimentNotFound,
    InvalidName,
    InvalidToken,
    NRPError,
    SettingsError,
    StorageError,
    StorageForbidden,
    StorageUnavailable,
    StoredFileNotFound,
)
from nrp_common.storage_client import StorageClient
from tests.own_storage import OwnStorage
from tests.storage_server import StorageServer
from tests.waiting import wait_until

WEIRD_NAMES = ["with space.py", "umläut.py", "100%.py", "%2F.py", "what?.py", "a#b.py", "a&b=c+d;e.py", "日本.py"]

EXPERIMENT: dict[str, str | bytes] = {
    "simulation_config.json": "{}",
    "main_script.py": "pass",
    "engines/deep/engine.py": "class Script: ...",
    "data.bin": bytes(range(256)),
    "empty.txt": "",
    "catalog.txt": "no log",
    "simulation.data.zip": "not of a run",
}

LEFT_OUT: dict[str, str | bytes] = {
    "main_script_1.log": "",
    ".console_output.log": "",
    "2026-11-24_10-00-00_simulation_1.log.zip": "",
    "2026-11-24_10-00-00_simulation_1.data.zip": "",
    "logs/old.txt": "",
    "__pycache__/engine.pyc": "",
    "engines/__pycache__/engine.pyc": "",
    ".main_script.py.swp": "",
}


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[StorageServer]:
    """A storage like the NRP's proxy, with the experiment `demo`."""
    root = tmp_path / "proxy"
    root.mkdir()
    with StorageServer(root) as server:
        server.put("demo", EXPERIMENT | LEFT_OUT)
        yield server


@pytest.fixture(scope="module")
def own_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStorage]:
    storage = OwnStorage(tmp_path_factory.mktemp("own"))
    yield storage
    storage.stop()


@pytest.fixture(params=["proxy", "own"])
def client(request: pytest.FixtureRequest) -> Iterator[StorageClient]:
    """A client of each kind of storage, with an experiment `demo`."""
    if request.param == "proxy":
        client = StorageClient(request.getfixturevalue("proxy").url, StorageServer.TOKEN)
    else:
        client = StorageClient(request.getfixturevalue("own_storage").url, "any-token")
        client.create("demo")
        for path, content in (EXPERIMENT | LEFT_OUT).items():
            client.write("demo", path, io.BytesIO(content.encode() if isinstance(content, str) else content))
    yield client
    if request.param == "own":
        for each in client.experiments():
            client.delete_experiment(each.uuid)
    client.close()


@pytest.fixture
def owner(proxy: StorageServer) -> Iterator[StorageClient]:
    """The owner's client of the proxy, that asks once."""
    client = StorageClient(proxy.url, proxy.TOKEN, retry_for_s=0.0)
    yield client
    client.close()


@pytest.fixture
def hurried(proxy: StorageServer) -> Iterator[StorageClient]:
    """The owner's client of the proxy, quick to give up."""
    client = StorageClient(proxy.url, proxy.TOKEN, timeout=(1.0, 0.5), retry_for_s=0.0)
    yield client
    client.close()


@pytest.fixture
def patient(proxy: StorageServer) -> Iterator[StorageClient]:
    """The owner's client of the proxy, that tries again."""
    client = StorageClient(proxy.url, proxy.TOKEN)
    yield client
    client.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_bytes(files: dict[str, str | bytes]) -> dict[str, bytes]:
    return {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}


# -- files -----------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(client: StorageClient) -> None:
    client.write("demo", "new/folder/file", b"content")
    assert client.read("demo", "new/folder/file") == b"content"


def test_bytes_that_are_no_text_are_kept(client: StorageClient) -> None:
    client.write("demo", "file", bytes(range(256)))
    assert client.read("demo", "file") == bytes(range(256))


def test_a_file_on_disk_is_written(client: StorageClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    client.write("demo", "file", tmp_path / "file")
    assert client.read("demo", "file") == b"content"


def test_an_empty_file_is_written_from_memory_and_from_disk(client: StorageClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client.write("demo", "from_disk", tmp_path / "file")
    client.write("demo", "from_memory", b"")
    assert client.read("demo", "from_disk") == client.read("demo", "from_memory") == b""


def test_a_large_file_comes_in_pieces(client: StorageClient) -> None:
    content = os.urandom(3_000_000)
    client.write("demo", "file", content)
    pieces = list(client.open("demo", "file"))
    assert len(pieces) > 1
    assert b"".join(pieces) == content


@pytest.mark.parametrize("name", WEIRD_NAMES)
def test_a_weirdly_named_file_is_written_listed_read_and_deleted(client: StorageClient, name: str) -> None:
    client.write("demo", f"weird/{name}", name.encode())
    assert [each.name for each in client.files("demo", "weird")] == [name]
    assert client.read("demo", f"weird/{name}") == name.encode()
    client.delete_file("demo", f"weird/{name}")
    with pytest.raises(StoredFileNotFound):
        client.read("demo", f"weird/{name}")


def test_a_weirdly_named_experiment_is_made_and_used(client: StorageClient) -> None:
    assert client.create("100% wëird #?") == "100% wëird #?"
    client.write("100% wëird #?", "file", b"content")
    assert client.read("100% wëird #?", "file") == b"content"


def test_a_missing_file_is_named(client: StorageClient) -> None:
    with pytest.raises(StoredFileNotFound, match=r"'nothing\.py' in the experiment 'demo'"):
        client.read("demo", "nothing.py")


def test_a_listing_says_what_is_a_folder(client: StorageClient) -> None:
    listed = {each.name: each for each in client.files("demo")}
    assert listed["engines"].is_folder
    assert not listed["data.bin"].is_folder
    assert listed["data.bin"].size == 256


def test_a_listing_says_when_a_file_was_changed(client: StorageClient) -> None:
    client.write("demo", "file", b"content")
    (file,) = [each for each in client.files("demo") if each.name == "file"]
    assert file.modified_at is not None
    assert abs(time.time() - file.modified_at) < 30


def test_a_folder_is_made_once(client: StorageClient) -> None:
    client.make_folder("demo", "a/b")
    client.make_folder("demo", "a/b")
    assert [each.name for each in client.files("demo", "a")] == ["b"]


def test_deleting_a_missing_file_does_nothing(client: StorageClient) -> None:
    client.delete_file("demo", "nothing")


def test_an_experiment_that_is_not_there_may_not_be_viewed(client: StorageClient) -> None:
    assert client.may_view("demo")
    assert not client.may_view("nowhere")
    assert not client.may_view("../demo")


def test_experiments_are_found_by_name(client: StorageClient) -> None:
    client.create("other")
    assert sorted(each.uuid for each in client.experiments()) == ["demo", "other"]
    assert [each.uuid for each in client.experiments("other")] == ["other"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/../b", "", "a\0b", "x" * 256, "\ud800"])
def test_what_cannot_be_a_file_is_not_asked_for(proxy: StorageServer, owner: StorageClient, path: str) -> None:
    if path:
        with pytest.raises(InvalidName):
            owner.read("demo", path)
    with pytest.raises(InvalidName):
        owner.files(path)
    assert proxy.count() == 0


# -- clones ----------------------------------------------------------------------------------------------------------


def test_a_clone_leaves_out_logs_results_and_caches(client: StorageClient, tmp_path: Path) -> None:
    client.clone("demo", tmp_path / "clone")
    assert contents(tmp_path / "clone") == as_bytes(EXPERIMENT)


def test_a_clone_keeps_empty_folders(client: StorageClient, tmp_path: Path) -> None:
    client.make_folder("demo", "outer/inner")
    client.clone("demo", tmp_path / "clone")
    assert (tmp_path / "clone" / "outer" / "inner").is_dir()


def test_a_clone_keeps_times_of_change(client: StorageClient, tmp_path: Path) -> None:
    client.clone("demo", tmp_path / "clone")
    listed = {each.name: each.modified_at for each in client.files("demo") if not each.is_folder}
    assert (tmp_path / "clone" / "data.bin").stat().st_mtime == pytest.approx(listed["data.bin"], abs=1e-3)


def test_a_clone_of_weird_names_is_whole(client: StorageClient, tmp_path: Path) -> None:
    for name in WEIRD_NAMES:
        client.write("demo", f"{name}/{name}", name.encode())
    client.clone("demo", tmp_path / "clone")
    assert as_bytes({f"{name}/{name}": name for name in WEIRD_NAMES}).items() <= contents(tmp_path / "clone").items()


def test_a_clone_from_the_cache_is_the_same(client: StorageClient, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache")
    client.clone("demo", tmp_path / "first", cache)
    client.clone("demo", tmp_path / "second", cache)
    assert contents(tmp_path / "second") == as_bytes(EXPERIMENT)
    first, second = (tmp_path / name / "data.bin" for name in ("first", "second"))
    assert first.stat().st_mtime == second.stat().st_mtime


def test_a_file_that_changed_is_fetched_again(client: StorageClient, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache")
    client.clone("demo", tmp_path / "first", cache)
    client.write("demo", "main_script.py", b"PASS")
    client.clone("demo", tmp_path / "second", cache)
    assert (tmp_path / "second" / "main_script.py").read_bytes() == b"PASS"


def test_changing_a_clone_does_not_change_the_next_one(client: StorageClient, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache")
    for name in ("first", "second"):
        client.clone("demo", tmp_path / name, cache)
        (tmp_path / name / "data.bin").write_bytes(b"overwritten")
    client.clone("demo", tmp_path / "third", cache)
    assert (tmp_path / "third" / "data.bin").read_bytes() == bytes(range(256))


def test_many_clones_at_once_share_a_cache(client: StorageClient, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.clone("demo", tmp_path / f"clone_{number}", cache), range(16)))
    for number in range(16):
        assert contents(tmp_path / f"clone_{number}") == as_bytes(EXPERIMENT)


def test_a_clone_of_nothing_says_so(client: StorageClient, tmp_path: Path) -> None:
    with pytest.raises((ExperimentNotFound, StorageForbidden), match="nowhere"):
        client.clone("nowhere", tmp_path / "clone")


def test_a_clone_from_the_cache_fetches_nothing(proxy: StorageServer, owner: StorageClient, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache")
    owner.clone("demo", tmp_path / "first", cache)
    proxy.requests.clear()
    owner.clone("demo", tmp_path / "second", cache)
    assert not [each for each in proxy.requests if "byname" in each.query]


def test_what_is_left_out_of_a_clone_is_not_even_fetched(
    proxy: StorageServer, owner: StorageClient, tmp_path: Path
) -> None:
    owner.clone("demo", tmp_path / "clone")
    fetched = {each.path for each in proxy.requests if "byname" in each.query}
    assert fetched == {f"/storage/demo/{path}" for path in EXPERIMENT}
    assert proxy.count(path="__pycache__") == proxy.count(path="logs") == 0


def test_a_clone_fetches_files_at_the_same_time(proxy: StorageServer, patient: StorageClient, tmp_path: Path) -> None:
    proxy.hang(path=".py", times=2)  # both must have arrived before either is answered
    with ThreadPoolExecutor(1) as pool:
        clone = pool.submit(patient.clone, "demo", tmp_path / "clone")
        try:
            wait_until(lambda: proxy.count(path=".py") == 2, 8)
        finally:
            proxy.heal()
        clone.result()
    assert contents(tmp_path / "clone") == as_bytes(EXPERIMENT)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", ""])
def test_a_server_cannot_make_a_clone_write_outside(tmp_path: Path, name: str) -> None:
    listing = b'[{"name": "%s", "type": "file", "size": 1}]' % name.encode()
    with _server_that_says(listing) as url, pytest.raises(InvalidName):
        StorageClient(url).clone("demo", tmp_path / "clone")
    assert list(tmp_path.iterdir()) == [tmp_path / "clone"]


def test_folders_within_folders_without_end_are_refused(tmp_path: Path) -> None:
    with _server_that_says(b'[{"name": "loop", "type": "folder"}]') as url, pytest.raises(InvalidName):
        StorageClient(url).clone("demo", tmp_path / "clone")


# -- tokens and rights -----------------------------------------------------------------------------------------------


def test_a_token_belongs_to_a_user(proxy: StorageServer, owner: StorageClient) -> None:
    assert owner.identity().id == "owner"
    assert owner.with_token(proxy.add_user("somebody")).identity().id == "somebody"
    assert owner.identity().display_name == "Owner"


@pytest.mark.parametrize("token", ["unknown", None, "two\nlines", "ümlaut"])
def test_a_token_that_is_none_is_invalid(owner: StorageClient, token: str | None) -> None:
    with pytest.raises(InvalidToken):
        owner.with_token(token).identity()


def test_a_stranger_may_not_see_an_experiment(proxy: StorageServer, owner: StorageClient, tmp_path: Path) -> None:
    stranger = owner.with_token(proxy.add_user("stranger"))
    assert not stranger.may_view("demo")
    with pytest.raises(StorageForbidden, match="The experiment 'demo' does not exist or is not yours"):
        stranger.clone("demo", tmp_path / "clone")
    with pytest.raises(StorageForbidden):
        stranger.write("demo", "file", b"")
    proxy.give("demo", "stranger")
    assert stranger.may_view("demo")


def test_a_password_in_netrc_does_not_replace_the_token(
    proxy: StorageServer, owner: StorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert owner.identity().id == "owner"


def test_a_storage_on_this_machine_is_not_asked_by_way_of_a_proxy(
    proxy: StorageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert StorageClient(proxy.url, proxy.TOKEN, retry_for_s=0.0).may_view("demo")


SECRET = "a-very-secret-token"


@pytest.mark.parametrize("fault", ["answer", "hang", "cut", "unknown", "gone", "malformed"])
def test_no_message_holds_the_token(
    proxy: StorageServer, hurried: StorageClient, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = hurried.with_token(SECRET + "\n" if fault == "malformed" else SECRET)
    if fault != "unknown":
        proxy.users[SECRET] = "owner"
    match fault:
        case "answer":
            proxy.answer(500)
        case "hang":
            proxy.hang()
        case "cut":
            proxy.cut()
        case "gone":
            proxy.stop()
    for call in (client.identity, lambda: client.read("demo", "data.bin"), lambda: client.clone("demo", tmp_path)):
        with pytest.raises(NRPError) as error:
            call()
        assert SECRET not in str(error.value)
    proxy.heal()
    assert SECRET not in caplog.text
    assert SECRET not in repr(client)


# -- faults ----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_server_is_told_at_once_with_what_and_where(
    proxy: StorageServer, patient: StorageClient
) -> None:
    proxy.answer(500, path="data.bin")
    with pytest.raises(StorageUnavailable) as error:
        patient.read("demo", "data.bin")
    assert proxy.count(path="data.bin") == 1
    assert proxy.url.removeprefix("http://") in str(error.value)
    assert "GET /storage/demo/data.bin: it answered 500: fault 500" in str(error.value)


def test_a_server_that_hangs_times_out_and_is_not_asked_again(proxy: StorageServer, owner: StorageClient) -> None:
    proxy.hang()
    client = StorageClient(proxy.url, proxy.TOKEN, timeout=(1.0, 0.3))
    start = time.monotonic()
    with pytest.raises(StorageUnavailable, match="no answer in time"):
        client.files("demo")
    assert time.monotonic() - start < 8.0
    assert proxy.count() == 1
    proxy.heal()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_restarts_its_server_is_asked_again(
    proxy: StorageServer, patient: StorageClient, status: int
) -> None:
    proxy.answer(status, times=2)
    assert patient.read("demo", "data.bin") == bytes(range(256))
    assert proxy.count() == 3


def test_a_file_that_a_restarting_server_did_not_take_is_sent_again_as_a_whole(
    proxy: StorageServer, patient: StorageClient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    proxy.answer(503, times=2)
    patient.write("demo", "file", tmp_path / "file")
    assert (proxy.root / "demo" / "file").read_bytes() == b"content" * 100_000


def test_a_server_that_stays_away_is_given_up_and_named(proxy: StorageServer) -> None:
    proxy.stop()
    client = StorageClient(proxy.url, proxy.TOKEN, retry_for_s=0.3)
    start = time.monotonic()
    with pytest.raises(StorageUnavailable, match="no connection"):
        client.files("demo")
    assert time.monotonic() - start < 8.0


def test_a_server_that_comes_back_gets_the_file(proxy: StorageServer, patient: StorageClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    patient.files("demo")  # a connection is open, and will be found closed
    proxy.stop()
    timer = threading.Timer(0.3, proxy.start)
    timer.start()
    patient.write("demo", "file", tmp_path / "file")
    timer.join()
    assert patient.read("demo", "file") == b"content" * 100_000


def test_a_file_that_is_cut_off_is_no_file(proxy: StorageServer, owner: StorageClient) -> None:
    proxy.cut(path="data.bin")
    with pytest.raises(StorageUnavailable, match=r"data\.bin"):
        owner.read("demo", "data.bin")


def test_a_clone_fetches_a_file_that_was_cut_off_again(
    proxy: StorageServer, patient: StorageClient, tmp_path: Path
) -> None:
    proxy.cut(path="data.bin", times=2)
    cache = CloneCache(tmp_path / "cache")
    patient.clone("demo", tmp_path / "first", cache)
    patient.clone("demo", tmp_path / "second", cache)
    assert contents(tmp_path / "first") == contents(tmp_path / "second") == as_bytes(EXPERIMENT)


def test_of_many_clones_at_once_one_fetches_each_file(
    proxy: StorageServer, patient: StorageClient, tmp_path: Path
) -> None:
    cache = CloneCache(tmp_path / "cache")
    clones = [tmp_path / str(n) for n in range(20)]
    with ThreadPoolExecutor(len(clones)) as pool:
        list(pool.map(lambda clone: patient.clone("demo", clone, cache), clones))
    for clone in clones:
        assert contents(clone) == as_bytes(EXPERIMENT)
    for name in EXPERIMENT:
        assert proxy.count(path=f"/storage/demo/{name}") == 1


def test_clone_goes_on_when_the_one_that_fetched_fails(
    proxy: StorageServer, owner: StorageClient, tmp_path: Path
) -> None:
    cache = CloneCache(tmp_path / "cache")
    proxy.answer(500, path="data.bin", times=1)
    with ThreadPoolExecutor(4) as pool:
        clones = [pool.submit(owner.clone, "demo", tmp_path / str(n), cache) for n in range(4)]
    assert sum(clone.exception() is not None for clone in clones) == 1
    assert sum(contents(tmp_path / str(n)) == as_bytes(EXPERIMENT) for n in range(4)) == 3


def test_a_clone_of_which_one_file_fails_fails(proxy: StorageServer, owner: StorageClient, tmp_path: Path) -> None:
    proxy.answer(500, path="engine.py")
    with pytest.raises(StorageUnavailable, match=r"engine\.py"):
        owner.clone("demo", tmp_path / "clone")


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b"[{}]", b"[1]", b'[{"name": 1}]'])
def test_an_answer_that_is_none_is_an_error_that_says_so(answer: bytes) -> None:
    with _server_that_says(answer) as url, pytest.raises(StorageError, match="of the experiment 'demo' cannot be"):
        StorageClient(url).files("demo")


def test_a_write_that_is_redirected_is_an_error() -> None:
    with (
        _server_that_says(b"", status=301, location="/elsewhere") as url,
        pytest.raises(StorageError, match="answered 301 to POST"),
    ):
        StorageClient(url).write("demo", "file", b"content")


@pytest.mark.parametrize("address", ["", "localhost:9000", "ftp://host", "http://", "http:///storage"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="NRP_STORAGE_URL"):
        StorageClient(address)


def test_a_base_url_may_have_a_path(proxy: StorageServer) -> None:
    with pytest.raises(ExperimentNotFound):  # the fake serves nothing there: it is asked there all the same
        StorageClient(proxy.url + "/proxy/", proxy.TOKEN).files("demo")
    assert proxy.requests[-1].path == "/proxy/storage/demo"


class _server_that_says:  # noqa: N801  used as a function
    """A server with one answer to everything; its URL."""

    def __init__(self, content: bytes, status: int = 200, location: str | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if location is not None:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Not to stderr."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
