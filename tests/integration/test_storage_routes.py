"""The gateway's own storage over HTTP, as bytes on the wire."""

from __future__ import annotations

import http.client
import io
import json
import socket
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.own_storage import OwnStorage
from tests.waiting import wait_until

SECRET = b"nobody may read this"

WEIRD_NAMES = [
    "with space.py",
    "umläut.py",
    "100%.py",
    "%2F.py",
    "what?.py",
    "a#b.py",
    "a&b=c+d;e.py",
    "'\".py",
    "日本.py",
]


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def names(self) -> list[str]:
        return [each["name"] for each in self.json]


class Wire:
    """Sends paths as they are: nothing is normalised or encoded on the way."""

    def __init__(self, storage: OwnStorage, outside: Path) -> None:
        self.storage = storage
        self.root = storage.root
        self.outside = outside

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.storage.port, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": "application/octet-stream", **headers})
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def refused(self, method: str, path: str, status: int = 400, body: bytes | None = None) -> str:
        """The message with which a request is refused."""
        answer = self.ask(method, path, body)
        assert answer.status == status, answer
        assert set(answer.json) == {"message", "type", "data"}
        assert answer.json["message"]
        return str(answer.json["message"])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStorage]:
    root = tmp_path_factory.mktemp("outside") / "experiments"
    root.mkdir()
    (root.parent / "secret.txt").write_bytes(SECRET)
    (root.parent / "experiments_too").mkdir()
    (root.parent / "experiments_too" / "secret.txt").write_bytes(SECRET)
    storage = OwnStorage(root)
    yield storage
    storage.stop()


@pytest.fixture
def wire(storage: OwnStorage) -> Iterator[Wire]:
    """The storage with one experiment, `demo`, of two files and an empty folder."""
    wire = Wire(storage, storage.root.parent)
    wire.ask("PUT", "/storage/demo")
    wire.ask("POST", "/storage/demo/simulation_config.json", b'{"SimulationName": "x"}')
    wire.ask("POST", "/storage/demo/code%2Fengine.py", b"pass")
    wire.ask("POST", "/storage/demo/empty?type=folder")
    yield wire
    for experiment in wire.ask("GET", "/storage/experiments").json:
        wire.ask("DELETE", f"/storage/{quote(experiment['uuid'], safe='')}")
    assert (wire.outside / "secret.txt").read_bytes() == SECRET
    assert (wire.outside / "experiments_too" / "secret.txt").read_bytes() == SECRET
    assert sorted(path.name for path in wire.outside.iterdir()) == ["experiments", "experiments_too", "secret.txt"]
    for left in wire.root.iterdir():
        if left.is_symlink():
            left.unlink()


# -- users -----------------------------------------------------------------------------------------------------------


def test_everybody_gets_a_token_as_bare_text(wire: Wire) -> None:
    answer = wire.ask("POST", "/authentication/authenticate", b'{"user": "somebody", "password": "any"}')
    assert (answer.status, answer.body) == (200, b"default-owner")


def test_everybody_is_the_default_owner(wire: Wire) -> None:
    answer = wire.ask("GET", "/identity/me", Authorization="Bearer false")
    assert answer.json == {"id": "default-owner", "displayName": "default-owner"}


# -- experiments -----------------------------------------------------------------------------------------------------


def test_experiments_are_listed_with_their_configurations(wire: Wire) -> None:
    assert wire.ask("GET", "/storage/experiments").json == [
        {"uuid": "demo", "name": "demo", "owned": True, "configuration": {"SimulationName": "x"}}
    ]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b"\xff", b"[" * 100_000, b" " * 2_000_000])
def test_an_experiment_whose_configuration_cannot_be_read_is_listed(wire: Wire, content: bytes) -> None:
    wire.ask("POST", "/storage/demo/simulation_config.json", content)
    assert wire.ask("GET", "/storage/experiments").json[0]["configuration"] is None


def test_experiments_are_filtered_by_name(wire: Wire) -> None:
    wire.ask("PUT", "/storage/other")
    assert wire.ask("GET", "/storage/experiments?filter=other").names == ["other"]


def test_making_an_experiment_that_is_there_leaves_it_as_it_is(wire: Wire) -> None:
    answer = wire.ask("PUT", "/storage/demo")
    assert (answer.status, answer.json) == (200, {"uuid": "demo"})
    assert (wire.root / "demo" / "code" / "engine.py").exists()


@pytest.mark.parametrize(
    "name", ["experiments", "..", ".", ".hidden", "a..b", "a%5Cb", "a%00b", "a%0Ab", "%FF", "x" * 256, "x" * 10_000]
)
def test_an_experiment_cannot_have_this_name(wire: Wire, name: str) -> None:
    before = sorted(wire.root.iterdir())
    wire.refused("PUT", f"/storage/{name}")
    assert sorted(wire.root.iterdir()) == before


@pytest.mark.parametrize("name", ["umläut", "with space", "100%", "a#b?", "x" * 255, "-", "null"])
def test_an_experiment_can_have_this_name(wire: Wire, name: str) -> None:
    path = f"/storage/{quote(name, safe='')}"
    assert wire.ask("PUT", path).json == {"uuid": name}
    assert wire.ask("POST", f"{path}/file", b"content").status == 200
    assert wire.ask("GET", path).names == ["file"]
    assert name in wire.ask("GET", "/storage/experiments").names
    assert wire.ask("DELETE", path).status == 200
    assert wire.ask("GET", path).status == 404


def test_a_deleted_experiment_is_gone_with_all_its_files(wire: Wire) -> None:
    assert wire.ask("DELETE", "/storage/demo").status == 200
    assert not (wire.root / "demo").exists()
    assert list((wire.root / ".transit").iterdir()) == []


def test_deleting_a_file_without_a_name_does_not_delete_the_experiment(wire: Wire) -> None:
    wire.refused("DELETE", "/storage/demo/?byname=true&type=file")
    assert (wire.root / "demo" / "code" / "engine.py").exists()


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/file"), ("DELETE", "/file")])
def test_an_experiment_that_is_not_there_is_404(wire: Wire, method: str, path: str) -> None:
    assert "nowhere" in wire.refused(method, f"/storage/nowhere{path}", 404)
    assert not (wire.root / "nowhere").exists()


def test_an_experiment_is_zipped_without_what_runs_left(wire: Wire) -> None:
    for left in ("x.log", "old.log.zip", "logs%2Fa.py", "__pycache__%2Fa.pyc", ".main.swp", "simulation_1.data.zip"):
        wire.ask("POST", f"/storage/demo/{left}", b"")
    answer = wire.ask("GET", "/storage/experiments/demo/zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert sorted(archive.namelist()) == [
            "demo/code/",
            "demo/code/engine.py",
            "demo/empty/",
            "demo/simulation_config.json",
        ]
        assert archive.read("demo/code/engine.py") == b"pass"


# -- listing ---------------------------------------------------------------------------------------------------------


def test_a_listing_says_name_id_size_and_type(wire: Wire) -> None:
    code, empty, configuration = wire.ask("GET", "/storage/demo").json
    assert (code["name"], code["uuid"], code["type"]) == ("code", "demo/code", "folder")
    assert (empty["name"], empty["type"]) == ("empty", "folder")
    assert configuration.items() >= {"name": "simulation_config.json", "size": 23, "type": "file"}.items()


@pytest.mark.parametrize("path", ["demo%2Fcode", "demo/code"])
def test_a_subfolder_is_listed_however_its_separator_is_written(wire: Wire, path: str) -> None:
    (engine,) = wire.ask("GET", f"/storage/{path}").json
    assert (engine["name"], engine["uuid"]) == ("engine.py", "demo/code/engine.py")


def test_a_folder_that_is_not_there_is_404(wire: Wire) -> None:
    wire.refused("GET", "/storage/demo%2Fnowhere", 404)


def test_a_listing_for_a_clone_has_all_folders_and_says_so(wire: Wire) -> None:
    wire.ask("POST", "/storage/demo/old.log.zip", b"")
    answer = wire.ask("GET", "/storage/demo?clone=true")
    assert sorted(answer.names) == ["code", "code/engine.py", "empty", "simulation_config.json"]
    assert "x-nrp-clone-listing" in answer.headers


def test_two_versions_of_a_file_never_share_their_time_of_change(wire: Wire) -> None:
    times = set()
    for _ in range(10):
        wire.ask("POST", "/storage/demo/file", b"same size")
        times |= {each["modifiedOn"] for each in wire.ask("GET", "/storage/demo").json if each["name"] == "file"}
    assert len(times) == 10


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIRD_NAMES)
def test_a_weirdly_named_file_is_kept(wire: Wire, name: str) -> None:
    path = f"/storage/demo/{quote('sub/' + name, safe='')}"
    assert wire.ask("POST", path, name.encode()).status == 200
    assert (wire.root / "demo" / "sub" / name).read_text() == name
    assert wire.ask("GET", f"{path}?byname=true").body == name.encode()
    assert wire.ask("GET", "/storage/demo%2Fsub").names == [name]
    assert wire.ask("DELETE", f"{path}?byname=true&type=file").status == 200
    assert wire.ask("GET", f"{path}?byname=true").status == 204


def test_bytes_are_kept_as_they_are(wire: Wire) -> None:
    content = bytes(range(256)) * 100
    wire.ask("POST", "/storage/demo/file", content, **{"Content-Type": "text/plain"})
    assert wire.ask("GET", "/storage/demo/file?byname=true").body == content


def test_an_empty_file_is_not_a_missing_one(wire: Wire) -> None:
    wire.ask("POST", "/storage/demo/file", b"")
    answer = wire.ask("GET", "/storage/demo/file?byname=true")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["demo/nothing", "demo/empty", "nowhere/file", "demo/code%2Fengine.py%2Fx"])
def test_a_missing_file_is_204(wire: Wire, path: str) -> None:
    answer = wire.ask("GET", f"/storage/{path}?byname=true")
    assert (answer.status, answer.body) == (204, b"")


def test_deleting_a_missing_file_is_204(wire: Wire) -> None:
    assert wire.ask("DELETE", "/storage/demo/nothing?byname=true&type=file").status == 204


def test_a_folder_is_made_and_making_it_again_does_nothing(wire: Wire) -> None:
    for _ in range(2):
        assert wire.ask("POST", "/storage/demo/a%2Fb?type=folder").status == 200
    assert wire.ask("GET", "/storage/demo%2Fa").names == ["b"]


def test_a_folder_is_deleted_with_what_lies_in_it(wire: Wire) -> None:
    assert wire.ask("DELETE", "/storage/demo/code?byname=true&type=folder").status == 200
    assert wire.ask("GET", "/storage/demo").names == ["empty", "simulation_config.json"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "code"),
        ("POST", "code%2Fengine.py%2Fx"),
        ("POST", "code%2Fengine.py?type=folder"),
        ("DELETE", "code?type=file"),
    ],
)
def test_files_and_folders_do_not_replace_each_other(wire: Wire, method: str, path: str) -> None:
    wire.refused(method, f"/storage/demo/{path}", body=b"x")
    assert (wire.root / "demo" / "code" / "engine.py").read_bytes() == b"pass"


def test_a_large_file_is_kept_whole(wire: Wire) -> None:
    content = b"0123456789abcdef" * (40 << 16)  # 40 MB
    assert wire.ask("POST", "/storage/demo/large", content).status == 200
    assert wire.ask("GET", "/storage/demo/large?byname=true").body == content


def test_who_sends_a_large_file_nowhere_is_told_so(wire: Wire) -> None:
    assert "nowhere" in wire.refused("POST", "/storage/nowhere/large", 404, body=bytes(20_000_000))


def test_a_file_that_was_cut_off_is_not_stored(wire: Wire) -> None:
    with socket.create_connection(("127.0.0.1", wire.storage.port)) as connection:
        connection.sendall(b"POST /storage/demo/file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nshort")
        wait_until(lambda: list((wire.root / ".transit").iterdir()))
    wait_until(lambda: not list((wire.root / ".transit").iterdir()))
    assert wire.ask("GET", "/storage/demo/file?byname=true").status == 204


def _send_in_chunks(wire: Wire, chunks: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", wire.storage.port), timeout=10) as connection:
        head = b"POST /storage/demo/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + chunks)
        return connection.recv(1000)


def test_a_file_of_unknown_length_is_refused(wire: Wire) -> None:
    assert _send_in_chunks(wire, b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 411")


def test_an_empty_file_may_be_of_unknown_length(wire: Wire) -> None:
    assert _send_in_chunks(wire, b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert (wire.root / "demo" / "file").read_bytes() == b""


def test_files_written_at_the_same_time_are_whole(wire: Wire) -> None:
    contents = [letter * 300_000 for letter in (b"a", b"b", b"c", b"d")]
    seen = set()
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(wire.ask, "POST", "/storage/demo/file", content) for content in contents * 8]
        reads = [pool.submit(wire.ask, "GET", "/storage/demo/file?byname=true") for _ in range(32)]
        listings = [pool.submit(wire.ask, "GET", "/storage/demo") for _ in range(8)]
        assert {each.result().status for each in writes} == {200}
        seen = {each.result().body for each in reads}
        names = {name for each in listings for name in each.result().names}
    assert seen <= {*contents, b""}
    assert names <= {"code", "empty", "simulation_config.json", "file"}


# -- attacks ---------------------------------------------------------------------------------------------------------

OUTSIDE = [
    "..%2Fsecret.txt",
    "..%2F..%2Fsecret.txt",
    "../../secret.txt",
    "code%2F..%2F..%2F..%2Fsecret.txt",
    "code/../../../secret.txt",
    "..%5C..%5Csecret.txt",
    "%2e%2e%2f%2e%2e%2fsecret.txt",
    "..%2F..%2Fexperiments_too%2Fsecret.txt",
    ".",
    "code%2F.%2Fengine.py",
    "code%2F%2Fengine.py",
    "code%2Fengine.py%00.txt",
    "%00",
    "a%09b",
    "%FF%FE",
    "x" * 256,
    "x" * 10_000,
    quote("/".join(["y" * 200] * 30), safe=""),
    quote("/".join(["d"] * 100), safe=""),
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "?byname=true"),
        ("GET", ""),
        ("POST", ""),
        ("POST", "?type=folder"),
        ("DELETE", "?byname=true&type=file"),
        ("DELETE", "?type=folder"),
    ],
)
def test_a_path_that_is_none_is_refused(wire: Wire, method: str, query: str, path: str) -> None:
    body = b"overwritten" if method == "POST" else None
    wire.refused(method, f"/storage/demo/{path}{query}", body=body)


@pytest.mark.parametrize("path", ["%2Fetc%2Fpasswd", "/etc/passwd", "a%0Ab"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_is_absolute_or_of_several_lines_is_nowhere(wire: Wire, method: str, path: str) -> None:
    assert wire.ask(method, f"/storage/demo/{path}?byname=true", b"").status in (400, 404)


@pytest.mark.parametrize("experiment", ["..", "%2e%2e", "..%2Fexperiments_too", ".transit", ".", "demo%2F..%2F.."])
def test_what_is_no_experiment_is_not_listed(wire: Wire, experiment: str) -> None:
    for path in (
        f"/storage/{experiment}",
        f"/storage/{experiment}?clone=true",
        f"/storage/experiments/{experiment}/zip",
    ):
        assert wire.ask("GET", path).status in (400, 404)


def test_no_symbolic_link_is_followed_or_listed(wire: Wire) -> None:
    demo = wire.root / "demo"
    (demo / "to_file").symlink_to(wire.outside / "secret.txt")
    (demo / "to_folder").symlink_to(wire.outside)
    (demo / "to_nothing").symlink_to(wire.outside / "made")
    (demo / "to_itself").symlink_to(demo / "to_itself")
    for path in ("to_file", "to_folder%2Fsecret.txt", "to_nothing", "to_itself"):
        assert "symbolic link" in wire.refused("GET", f"/storage/demo/{path}?byname=true")
        wire.refused("POST", f"/storage/demo/{path}", body=b"overwritten")
        wire.refused("DELETE", f"/storage/demo/{path}?byname=true&type=file")
    wire.refused("GET", "/storage/demo%2Fto_folder")
    wire.refused("POST", "/storage/demo/to_folder%2Fmade?type=folder")
    wire.refused("DELETE", "/storage/demo/to_folder?type=folder")
    for query in ("", "?clone=true"):
        assert not any(name.startswith("to_") for name in wire.ask("GET", f"/storage/demo{query}").names)
    assert SECRET not in wire.ask("GET", "/storage/experiments/demo/zip").body
    assert wire.ask("DELETE", "/storage/demo").status == 200


def test_an_experiment_that_is_a_symbolic_link_is_none(wire: Wire) -> None:
    (wire.root / "linked").symlink_to(wire.outside / "experiments_too")
    assert "linked" not in wire.ask("GET", "/storage/experiments").names
    wire.refused("GET", "/storage/linked", 404)
    assert wire.ask("GET", "/storage/linked/secret.txt?byname=true").status == 204
    wire.refused("PUT", "/storage/linked", 404)
    wire.refused("POST", "/storage/linked/secret.txt", 404, body=b"overwritten")
    wire.refused("DELETE", "/storage/linked", 404)


def test_errors_tell_nothing_of_where_the_storage_is(wire: Wire) -> None:
    for path in ("/storage/nowhere", "/storage/demo/code?byname=true", "/storage/demo%2Fnowhere"):
        assert str(wire.root).encode() not in wire.ask("GET", path).body
