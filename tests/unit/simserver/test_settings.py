"""The launcher's settings: names, defaults, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nrp_common.errors import SettingsError
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.settings import CoreSettings, LauncherSettings


def test_without_any_it_serves_the_gateway_on_this_machine() -> None:
    settings = LauncherSettings.load()
    assert settings.storage == "http://127.0.0.1:8090"
    assert settings.launcher_name == socket.gethostname()
    assert settings.capacity is None
    assert (settings.stop_grace_s, settings.initialise_timeout_s) == (5, 600)
    assert (settings.core, settings.log_limit_mb, settings.python) == ("auto", 512, None)
    assert (settings.idle_servers, settings.on_shutdown, settings.orphaned_s) == (2, "stop", 600)


def test_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NRP_LAUNCHER_NAME": "lab-1",
        "NRP_CAPACITY": "30",
        "NRP_STOP_GRACE_S": "0.5",
        "NRP_PYTHON": "/opt/python",
        "NRP_CORE": "embedded",
        "NRP_STORAGE_URL": "http://proxy:9000/x",
    }.items():
        monkeypatch.setenv(name, value)
    settings = LauncherSettings.load()
    assert (settings.launcher_name, settings.capacity, settings.stop_grace_s) == ("lab-1", 30, 0.5)
    assert (settings.python, settings.core, settings.storage) == (
        Path("/opt/python"),
        "embedded",
        "http://proxy:9000/x",
    )


def test_the_original_nrp_core_is_found_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LauncherSettings.load().nrpcoresim_options == NRPCoreSimOptions(program="NRPCoreSim", start_timeout_s=60)
    monkeypatch.setenv("NRP_NRPCORESIM", "/opt/nrp/bin/NRPCoreSim")
    monkeypatch.setenv("NRP_NRPCORESIM_ADDRESS", "lab:5345")
    monkeypatch.setenv("NRP_NRPCORESIM_TIMEOUT_S", "5")
    monkeypatch.setenv("NRP_STOP_GRACE_S", "8")
    monkeypatch.setenv("NRP_NRPCORESIM_BROKER", "lab:1883")
    assert LauncherSettings.load().nrpcoresim_options == NRPCoreSimOptions(
        program="/opt/nrp/bin/NRPCoreSim",
        address="lab:5345",
        start_timeout_s=5,
        shutdown_timeout_s=4,
        broker="lab:1883",
    )


def test_a_path_of_the_original_nrp_core_is_that_of_the_folder_where_it_was_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NRP_NRPCORESIM", "bin/NRPCoreSim")
    assert LauncherSettings.load().nrpcoresim_options.program == str(tmp_path / "bin/NRPCoreSim")


def test_what_runs_an_experiment_is_told_without_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRP_MQTT_TLS", "perhaps")
    monkeypatch.setenv("NRP_CORE", "nrpcoresim")
    assert CoreSettings.load().core == "nrpcoresim"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NRP_NRPCORESIM_TIMEOUT_S", "0"),
        ("NRP_LAUNCHER_NAME", "a/b"),
        ("NRP_LAUNCHER_NAME", "a#"),
        ("NRP_LAUNCHER_NAME", "+"),
        ("NRP_CAPACITY", "0"),
        ("NRP_CAPACITY", "many"),
        ("NRP_STOP_GRACE_S", "-1"),
        ("NRP_INITIALISE_TIMEOUT_S", "0"),
        ("NRP_STATUS_INTERVAL_S", "0"),
        ("NRP_LOG_LIMIT_MB", "0"),
        ("NRP_CORE", "imaginary"),
        ("NRP_NRPCORESIM_ADDRESS", "lab"),
        ("NRP_NRPCORESIM_ADDRESS", "http://lab:5345"),
        ("NRP_NRPCORESIM_BROKER", "lab:mqtt"),
    ],
)
def test_wrong_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        LauncherSettings.load()


def test_folders_are_absolute_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = LauncherSettings.load(data_directory=Path("data"))
    folders = [settings.simulations_directory, settings.spool_directory, settings.clone_cache_directory]
    assert {folder.parent for folder in folders} == {tmp_path / "data"}
    assert len(set(folders)) == 3


@pytest.mark.parametrize(
    "filters", ["#", "+/x", "$SYS/#", "/x", "nrp_simulation/#", "lab/nrp_simulation/#", "robot//x"]
)
def test_simulations_get_no_topics_that_are_not_theirs_to_have(filters: str) -> None:
    with pytest.raises(SettingsError, match="NRP_SIMULATION_TOPICS"):
        LauncherSettings.load(simulation_topics=f"robot/#, {filters}")


def test_simulations_get_the_topics_that_are_listed() -> None:
    assert LauncherSettings.load(simulation_topics=" robot/#, camera/+/frame ").further_topics == (
        "robot/#",
        "camera/+/frame",
    )


def test_credentials_for_simulations_need_some_of_the_launchers() -> None:
    with pytest.raises(SettingsError, match="NRP_MQTT_USERNAME"):
        LauncherSettings.load(simulation_credentials="required")


@pytest.mark.parametrize(
    ("policy", "username", "are_kept"),
    [("auto", None, False), ("auto", "nrp", True), ("none", "nrp", False), ("required", "nrp", True)],
)
def test_spawners_are_told_the_launchers_credentials_only_where_simulations_use_them(
    policy: str, username: str | None, are_kept: bool
) -> None:
    settings = LauncherSettings.load(
        simulation_credentials=policy, mqtt_username=username, mqtt_password="s3cret" if username else None
    )
    assert settings.keeps_credentials is are_kept
    assert ("s3cret" in settings.bus_access_of_servers.model_dump_json()) is (username is not None and not are_kept)
