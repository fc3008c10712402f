"""`nrp broker-access`: makes what is missing, keeps what is there, says what does not go together."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from nrp_cli.broker_access import certificates
from nrp_cli.broker_access import folder as folder_module
from nrp_cli.broker_access.folder import AccessFolder
from nrp_cli.main import app
from nrp_common import dynamic_security


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["broker-access", *map(str, arguments)])


def made(folder: Path, *arguments: object) -> AccessFolder:
    done = run("init", folder, *arguments)
    assert done.exit_code == 0, done.output
    return AccessFolder(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def interrupt_after(written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be interrupted when so many files are written."""
    write, left = folder_module._write, iter(range(written))

    def write_or_not(file: Path, content: bytes, mode: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(file, content, mode)

    monkeypatch.setattr(folder_module, "_write", write_or_not)


def refused(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


@pytest.fixture
def access(tmp_path: Path) -> AccessFolder:
    return made(tmp_path / "access", "--host", "localhost", "--host", "10.1.2.3")


# -- files -----------------------------------------------------------------------------------------------------------


def test_keys_and_passwords_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        access = made(tmp_path / "access")
    finally:
        os.umask(before)
    readable = {
        str(each.relative_to(access.path))
        for each in access.path.rglob("*")
        if each.is_file() and stat.S_IMODE(each.stat().st_mode) != 0o600
    }
    assert readable == {"ca.crt", "broker/server.crt"}
    assert stat.S_IMODE(access.broker.stat().st_mode) == 0o700


def test_each_account_has_a_password_of_its_own_and_the_broker_only_its_hash(access: AccessFolder) -> None:
    passwords = {each.stem: each.read_text().strip() for each in access.path.glob("*.password")}
    assert set(passwords) == {"gateway", "launcher", "frontend", "doctor"}
    assert len(set(passwords.values())) == 4
    assert min(map(len, passwords.values())) > 40
    text = access.plugin.read_text()
    assert not any(each in text for each in passwords.values())
    for client in json.loads(text)["clients"]:
        assert dynamic_security.has_password(client, passwords[client["username"].removeprefix("nrp_")])
        assert not dynamic_security.has_password(client, "another")


def test_run_again_it_keeps_everything_and_says_so(access: AccessFolder) -> None:
    before = contents(access.path)
    done = run("init", access.path, "--host", "localhost")
    assert done.exit_code == 0
    assert contents(access.path) == before
    assert all(line.startswith("kept") for line in done.output.splitlines() if line and not line.startswith(" "))


def test_a_lost_certificate_is_made_again_by_the_same_authority(access: AccessFolder) -> None:
    authority = access.authority.read_bytes()
    access.certificate.unlink()
    made(access.path, "--host", "localhost")
    assert access.authority.read_bytes() == authority
    again = certificates.read_certificate(access.certificate.read_bytes(), "")
    assert certificates.is_signed_by(again, certificates.read_certificate(authority, ""))


@pytest.mark.parametrize("written", range(9))
def test_who_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    interrupt_after(written, monkeypatch)
    assert run("init", tmp_path / "access").exit_code != 0
    monkeypatch.undo()
    before = contents(tmp_path / "access")
    assert len(before) == written
    access = made(tmp_path / "access", "--host", "localhost")
    after = contents(access.path)
    if "broker/server.crt" not in before:
        before.pop("broker/server.key", None)  # a key that no certificate is for
    assert after.items() >= before.items()
    handshake(access, "localhost")


def test_who_was_interrupted_while_renewing_is_told_to_do_it_again(
    access: AccessFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(1, monkeypatch)
    assert run("renew", access.path).exit_code != 0
    monkeypatch.undo()
    assert "server.key is not the key of" in (said := refused("init", access.path))
    assert "`nrp broker-access renew`" in said
    assert run("renew", access.path).exit_code == 0
    handshake(access, "10.1.2.3")


def test_a_password_of_ones_own_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "access"
    folder.mkdir()
    (folder / "gateway.password").write_text("chosen by somebody\n")
    access = made(folder)
    (gateway,) = [
        each for each in json.loads(access.plugin.read_text())["clients"] if each["username"] == "nrp_gateway"
    ]
    assert dynamic_security.has_password(gateway, "chosen by somebody")


def test_a_certificate_of_ones_own_is_kept_and_no_authority_made(tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere", "--host", "localhost")
    own = tmp_path / "own"
    (own / "broker").mkdir(parents=True)
    for each in (elsewhere.certificate, elsewhere.key):
        (own / "broker" / each.name).write_bytes(each.read_bytes())
    done = run("init", own, "--host", "localhost")
    assert done.exit_code == 0, done.output
    assert "a certificate of your own" in " ".join(done.output.split())
    access = AccessFolder(own)
    assert access.certificate.read_bytes() == elsewhere.certificate.read_bytes()
    assert not access.authority.exists()
    assert access.plugin.exists()


def test_the_topic_prefix_is_in_every_right_but_that_to_control(tmp_path: Path) -> None:
    access = made(tmp_path / "access", "--prefix", "lab/a")
    roles = json.loads(access.plugin.read_text())["roles"]
    topics = {acl["topic"] for role in roles for acl in role["acls"]}
    assert {each for each in topics if not each.startswith("lab/a/")} == {
        "#", "$CONTROL/dynamic-security/v1", "$CONTROL/dynamic-security/v1/response", "$SYS/broker/#",
    }  # fmt: skip


# -- what does not go together ---------------------------------------------------------------------------------------


def test_a_lost_password_cannot_be_made_up(access: AccessFolder) -> None:
    (access.path / "gateway.password").unlink()
    assert "gateway.password is missing" in refused("init", access.path)


def test_a_changed_password_is_noticed(access: AccessFolder) -> None:
    (access.path / "gateway.password").write_text("another\n")
    assert "is not the one of user nrp_gateway" in refused("init", access.path)


def test_another_prefix_needs_another_folder(access: AccessFolder) -> None:
    assert "topic prefix" in refused("init", access.path, "--prefix", "lab")


def test_an_authority_without_its_key_is_not_replaced(access: AccessFolder) -> None:
    access.authority_key.unlink()
    access.certificate.unlink()
    assert "ca.key is missing" in refused("init", access.path)


def test_a_certificate_of_another_authority_is_noticed(access: AccessFolder, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    access.certificate.write_bytes(other.certificate.read_bytes())
    assert "is not signed by" in refused("init", access.path)


def test_what_is_no_certificate_is_named(access: AccessFolder) -> None:
    access.certificate.write_text("nonsense")
    assert "server.crt holds no certificate" in refused("init", access.path)


@pytest.mark.parametrize("owner", ["mosquitto", "-1", "1:2:3"])
def test_who_is_no_owner_is_refused(tmp_path: Path, owner: str) -> None:
    assert "--broker-owner" in refused("init", tmp_path / "access", "--broker-owner", owner)
    assert not (tmp_path / "access").exists()


@pytest.mark.parametrize("prefix", ["a/#", "+"])
def test_a_prefix_with_a_wildcard_is_refused(tmp_path: Path, prefix: str) -> None:
    assert "wildcard" in refused("init", tmp_path / "access", "--prefix", prefix)


# -- rights of another version ---------------------------------------------------------------------------------------


def test_rights_of_another_version_are_kept_until_told_otherwise_and_simulations_always(access: AccessFolder) -> None:
    configuration = json.loads(access.plugin.read_text())
    right = configuration["roles"][0]["acls"].pop()
    of_a_simulation = {"rolename": "nrp-simulation::one:7:x", "acls": []}
    configuration["roles"].append(of_a_simulation)
    access.plugin.write_text(json.dumps(configuration))
    done = run("init", access.path, "--host", "localhost")
    assert done.exit_code == 0
    assert "--update-rights" in done.output
    assert json.loads(access.plugin.read_text()) == configuration
    done = run("init", access.path, "--host", "localhost", "--update-rights")
    assert "start the broker again" in " ".join(done.output.split())
    roles = {each["rolename"]: each for each in json.loads(access.plugin.read_text())["roles"]}
    assert right in roles[configuration["roles"][0]["rolename"]]["acls"]
    assert roles[of_a_simulation["rolename"]] == of_a_simulation


# -- certificates ----------------------------------------------------------------------------------------------------


def handshake(access: AccessFolder, host: str, *, strict: bool = True) -> None:
    """Speak TLS with a server that has this certificate, as clients do."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(access.certificate, access.key)
    client_context = ssl.create_default_context(cafile=access.authority)
    if strict:  # as Python 3.13 does by itself
        client_context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server_context.wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        with client_context.wrap_socket(ours, server_hostname=host) as wrapped:
            wrapped.sendall(b"x")
    finally:
        ours.close()
        server.join()


def test_the_certificate_is_for_the_hosts_that_were_named_and_no_other(access: AccessFolder) -> None:
    handshake(access, "localhost")
    handshake(access, "10.1.2.3")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(access, "elsewhere")


def test_a_renewed_certificate_is_for_the_same_hosts_and_trusted_by_who_trusted_the_old_one(
    access: AccessFolder,
) -> None:
    before = access.certificate.read_bytes()
    assert run("renew", access.path).exit_code == 0
    assert access.certificate.read_bytes() != before
    handshake(access, "localhost")
    handshake(access, "10.1.2.3")


def test_a_certificate_can_be_renewed_for_other_hosts(access: AccessFolder) -> None:
    note = run("init", access.path, "--host", "mqtt.lab.example").output
    assert "not for mqtt.lab.example" in " ".join(note.split())
    assert run("renew", access.path, "--host", "mqtt.lab.example").exit_code == 0
    handshake(access, "mqtt.lab.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(access, "localhost")


def test_there_is_nothing_to_renew_without_an_authority(tmp_path: Path) -> None:
    assert "are needed to sign" in refused("renew", tmp_path)
