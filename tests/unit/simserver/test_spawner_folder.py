"""Where a spawner is found, and which spawners can take each other's place."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nrp_simserver.placement.local.spawner_folder import SpawnerFolder, identity_of, spawner_environment


def test_launcher_finds_who_listens_however_long_the_path_is(tmp_path: Path) -> None:
    folder = SpawnerFolder(tmp_path / ("x" * 120) / ("y" * 120))
    with folder.listen() as listener, folder.connect() as connection:
        accepted, _ = listener.accept()
        with accepted:
            connection.sendall(b"hello")
            assert accepted.recv(5) == b"hello"


def test_nobody_else_can_connect(tmp_path: Path) -> None:
    folder = SpawnerFolder(tmp_path / "spawner")
    with folder.listen():
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_spawner_that_has_ended_is_not_found(tmp_path: Path) -> None:
    folder = SpawnerFolder(tmp_path / "spawner")
    folder.listen().close()
    with pytest.raises(ConnectionRefusedError):
        folder.connect()
    folder.remove()
    assert not folder.path.exists()
    with pytest.raises(FileNotFoundError):
        folder.connect()


def test_simulations_do_not_find_the_secrets_of_the_services() -> None:
    secrets = {"NRP_SECRET_KEY": "a", "NRP_MQTT_PASSWORD": "b", "NRP_SECRET_KEY_FILE": "/run/secrets/key"}
    environment = spawner_environment({**secrets, "PATH": "/bin"})
    assert environment["PATH"] == "/bin"
    assert not environment.keys() & secrets.keys()


def test_spawners_of_other_code_interpreter_or_environment_are_told_apart() -> None:
    identities = {
        identity_of("python", "1", {"PATH": "/bin"}),
        identity_of("other", "1", {"PATH": "/bin"}),
        identity_of("python", "2", {"PATH": "/bin"}),
        identity_of("python", "1", {"PATH": "/usr/bin"}),
    }
    assert len(identities) == 4
    assert identity_of("python", "1", {"A": "1", "B": "2"}) == identity_of("python", "1", {"B": "2", "A": "1"})


def test_what_differs_from_start_to_start_does_not_tell_them_apart() -> None:
    first, second = (spawner_environment({"PATH": "/bin", "INVOCATION_ID": each, "PWD": each}) for each in "ab")
    assert identity_of("python", "1", first) == identity_of("python", "1", second)
