from __future__ import annotations

from pathlib import Path

import pytest

from nrp_common.errors import SettingsError
from nrp_common.settings import CommonSettings

SetVariable = pytest.MonkeyPatch


def test_defaults_suit_a_single_machine() -> None:
    settings = CommonSettings.load()
    assert str(settings.broker) == "localhost:1883"
    assert settings.topics.status(1) == "nrp_simulation/1/status"
    assert settings.storage_url == ""


def test_variables_are_read(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("NRP_STORAGE_URL", "https://proxy/api")
    monkeypatch.setenv("NRP_DATA_DIRECTORY", "/somewhere")
    settings = CommonSettings.load()
    assert (settings.storage_url, settings.data_directory) == ("https://proxy/api", Path("/somewhere"))


def test_an_empty_variable_is_as_none(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("NRP_MQTT_BROKER_ADDRESS", "")
    assert str(CommonSettings.load().broker) == "localhost:1883"


def test_what_the_caller_says_wins_over_variables(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("NRP_MQTT_PREFIX", "variable")
    assert CommonSettings.load(mqtt_prefix="caller").mqtt_prefix == "caller"


def test_the_storage_of_an_nrp_4_deployment_is_found(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("STORAGE_ADDRESS", "proxy")
    assert CommonSettings.load().storage_url == "http://proxy:9000/storage"
    monkeypatch.setenv("STORAGE_PORT", "1234")
    assert CommonSettings.load().storage_url == "http://proxy:1234/storage"


def test_a_whole_url_wins_over_the_old_names(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("STORAGE_ADDRESS", "proxy")
    monkeypatch.setenv("NRP_STORAGE_URL", "https://other")
    assert CommonSettings.load().storage_url == "https://other"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("broker", "broker", 1883),
        ("broker:1884", "broker", 1884),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:1884", "::1", 1884),
        ("[::1]", "::1", 1883),
    ],
)
def test_the_broker_is_named_by_host_and_port(address: str, host: str, port: int) -> None:
    broker = CommonSettings.load(mqtt_broker_address=address).broker
    assert (broker.host, broker.port) == (host, port)


@pytest.mark.parametrize(
    "address", ["broker:x", "broker:99999", "broker:-1", ":1883", "mqtt://broker:1883", "a/b", "["]
)
def test_what_is_no_broker_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(SettingsError, match="NRP_MQTT_BROKER_ADDRESS") as error:
        _ = CommonSettings.load(mqtt_broker_address=address).broker
    assert address in str(error.value)


def test_credentials_reach_the_broker_and_are_never_shown() -> None:
    settings = CommonSettings.load(mqtt_username="user", mqtt_password="s3cret", secret_key="k3y")
    assert (settings.broker.username, settings.broker.password) == ("user", "s3cret")
    for shown in (repr(settings), str(settings), repr(settings.broker), str(settings.broker)):
        assert "s3cret" not in shown
        assert "k3y" not in shown


@pytest.mark.parametrize("prefix", ["lab", "/lab", "lab/", "/lab/"])
def test_slashes_around_a_prefix_do_not_count(prefix: str) -> None:
    assert CommonSettings.load(mqtt_prefix=prefix).topics.status(1) == "lab/nrp_simulation/1/status"


def test_a_fault_names_the_variable(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("NRP_MQTT_TLS", "perhaps")
    with pytest.raises(SettingsError, match=r"^NRP_MQTT_TLS: Input should be a valid boolean"):
        CommonSettings.load()


def test_a_fault_in_an_old_name_names_it_as_it_is(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("STORAGE_PORT", "many")
    with pytest.raises(SettingsError, match=r"^STORAGE_PORT: "):
        CommonSettings.load()


def test_all_faults_are_told_at_once(monkeypatch: SetVariable) -> None:
    monkeypatch.setenv("NRP_MQTT_TLS", "perhaps")
    monkeypatch.setenv("NRP_LOG_FORMAT", "xml")
    monkeypatch.setenv("NRP_MQTT_PREFIX", "lab/#")
    with pytest.raises(SettingsError) as error:
        CommonSettings.load()
    for expected in (
        "NRP_MQTT_TLS: ",
        "NRP_LOG_FORMAT: Input should be 'json' or 'console'",
        "NRP_MQTT_PREFIX: 'lab/#'",
    ):
        assert expected in str(error.value)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_its_file_without_the_end_of_the_line(
    monkeypatch: SetVariable, tmp_path: Path, end: str
) -> None:
    (tmp_path / "key").write_bytes(f" k3y {end}".encode())
    monkeypatch.setenv("NRP_SECRET_KEY_FILE", str(tmp_path / "key"))
    assert CommonSettings.load().secret_key.get_secret_value() == " k3y "


@pytest.mark.parametrize("name", ["mqtt_password", "secret_key", "metrics_token"])
def test_every_secret_may_be_in_a_file(monkeypatch: SetVariable, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("s3cret")
    monkeypatch.setenv(f"NRP_{name.upper()}_FILE", str(tmp_path / name))
    assert getattr(CommonSettings.load(), name).get_secret_value() == "s3cret"


def test_what_is_no_secret_is_not_read_from_a_file(monkeypatch: SetVariable, tmp_path: Path) -> None:
    (tmp_path / "prefix").write_text("lab")
    monkeypatch.setenv("NRP_MQTT_PREFIX_FILE", str(tmp_path / "prefix"))
    assert CommonSettings.load().mqtt_prefix == ""


@pytest.mark.parametrize(("content", "fault"), [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "is no text")])
def test_a_secrets_file_that_is_of_no_use_is_named(
    monkeypatch: SetVariable, tmp_path: Path, content: bytes | None, fault: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("NRP_SECRET_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingsError, match=rf"^NRP_SECRET_KEY_FILE: {tmp_path}/key {fault}"):
        CommonSettings.load()


def test_a_secret_that_is_given_twice_is_refused_without_being_shown(monkeypatch: SetVariable, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k3y")
    monkeypatch.setenv("NRP_SECRET_KEY", "other")
    monkeypatch.setenv("NRP_SECRET_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingsError, match="NRP_SECRET_KEY and NRP_SECRET_KEY_FILE") as error:
        CommonSettings.load()
    assert "k3y" not in str(error.value)
    assert "other" not in str(error.value)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_file_without_authorities_is_refused_and_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=rf"NRP_MQTT_CA_FILE: {file}"):
        CommonSettings.load(mqtt_tls=True, mqtt_ca_file=file)
