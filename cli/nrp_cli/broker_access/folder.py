"""The folder with all that a secured broker and its clients need: made once, kept afterwards."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nrp_cli.broker_access import certificates
from nrp_common import dynamic_security
from nrp_common.access import Rights, doctor_rights, frontend_rights, gateway_rights, launcher_rights
from nrp_common.errors import SettingsError
from nrp_common.topics import Topics

PUBLIC: Final = 0o644
PRIVATE: Final = 0o600

RENEW_BEFORE_DAYS: Final = 60
"""How long before a certificate expires it is said to be time for a new one."""


@dataclass(frozen=True)
class Account:
    """A client of the broker that is always there.

    Attributes:
        name: of its password's file.
        username: at the broker; its role has the same name.
        text: what it is for.
        rights: what it may do.
    """

    name: str
    username: str
    text: str
    rights: Rights

    @property
    def role(self) -> dict[str, Any]:
        """Its role, as the plugin writes it."""
        return dynamic_security.role(self.username, self.text, self.rights)


def accounts(topics: Topics) -> tuple[Account, ...]:
    """All of an installation. Those of simulations come and go, and are made by launchers."""
    return (
        Account("gateway", _username("gateway", topics), "Gateways", gateway_rights(topics)),
        Account("launcher", _username("launcher", topics), "Launchers", launcher_rights(topics)),
        Account("frontend", _username("frontend", topics), "Frontends", frontend_rights(topics)),
        Account("doctor", _username("doctor", topics), "nrp doctor", doctor_rights(topics)),
    )


def _username(name: str, topics: Topics) -> str:
    return f"nrp_{name}" + (f"@{topics.prefix}" if topics.prefix else "")


class AccessFolder:
    """What `nrp broker-access` makes.

    Args:
        path: the folder.

    Attributes:
        authority: the certificate that clients trust.
        authority_key: with it more certificates can be made; nobody needs it to run.
        broker: the folder for the broker alone, in which its plugin writes.
        certificate: the broker's.
        key: the broker's.
        plugin: the plugin's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = path / "ca.crt"
        self.authority_key = path / "ca.key"
        self.broker = path / "broker"
        self.certificate = self.broker / "server.crt"
        self.key = self.broker / "server.key"
        self.plugin = self.broker / "dynamic-security.json"

    def password(self, account: Account) -> Path:
        """The file with the password of an account."""
        return self.path / f"{account.name}.password"

    # -- certificates --------------------------------------------------------------------------------------------------

    def keep_certificates(self, hosts: Sequence[str]) -> Iterator[str]:
        """Make what is missing of authority and certificate. Yields what was done.

        Raises:
            SettingsError: something is there that does not go together.
        """
        if self.certificate.exists() and self.key.exists() and not self.authority_key.exists():
            yield from self._keep_foreign_certificate(hosts)
            return
        if self.authority.exists() and self.authority_key.exists():
            yield f"kept {self.authority}{self._validity(self.authority)}"
        elif self.authority.exists() or self.certificate.exists():
            missing = self.authority_key if self.authority.exists() else self.authority
            raise SettingsError(
                f"{missing} is missing: put it back, or remove {self.authority}, {self.authority_key},"
                f" {self.certificate} and {self.key} for new ones, which all clients have to be given"
            )
        else:
            if not self.authority_key.exists():  # else somebody was interrupted here
                _write(self.authority_key, certificates.key_as_pem(certificates.new_key()), PRIVATE)
            key = certificates.read_key(self.authority_key.read_bytes(), self.authority_key)
            _write(self.authority, certificates.as_pem(certificates.new_authority(key)), PUBLIC)
            yield f"made {self.authority} and {self.authority_key}: the lab's own certificate authority"
        if self.certificate.exists() and self.key.exists():
            yield from self._keep_certificate(hosts)
        else:
            self._make_certificate(hosts)
            yield f"made {self.certificate} and {self.key}, for {', '.join(hosts)}"

    def renew_certificate(self, hosts: Sequence[str]) -> Iterator[str]:
        """Make the broker's certificate anew, by the authority that is there. Yields what was done.

        Args:
            hosts: that it is for; those of the old one when none is given.

        Raises:
            SettingsError: there is no authority, or no old certificate that says for whom it is.
        """
        if not (self.authority.exists() and self.authority_key.exists()):
            raise SettingsError(f"{self.authority} and {self.authority_key} are needed to sign a new certificate")
        named = list(hosts) or (
            certificates.hosts_of(self._read(self.certificate)) if self.certificate.exists() else []
        )
        if not named:
            raise SettingsError("For which host is the certificate to be? Say so with --host")
        self._make_certificate(named)
        yield f"made {self.certificate} and {self.key} anew, for {', '.join(named)}{self._validity(self.certificate)}"

    def _make_certificate(self, hosts: Sequence[str]) -> None:
        authority_key = certificates.read_key(self.authority_key.read_bytes(), self.authority_key)
        key = certificates.new_key()
        made = certificates.new_certificate(key, hosts, self._read(self.authority), authority_key)
        _write(self.key, certificates.key_as_pem(key), PRIVATE)
        _write(self.certificate, certificates.as_pem(made), PUBLIC)

    def _keep_certificate(self, hosts: Sequence[str]) -> Iterator[str]:
        there = self._read(self.certificate)
        if not certificates.is_signed_by(there, self._read(self.authority)):
            raise SettingsError(f"{self.certificate} is not signed by {self.authority}: one is another lab's")
        self._check_key("`nrp broker-access renew` makes both anew")
        hosts_named = ", ".join(certificates.hosts_of(there))
        yield f"kept {self.certificate}, for {hosts_named}{self._validity(self.certificate)}"
        yield from self._missing_hosts(hosts)

    def _keep_foreign_certificate(self, hosts: Sequence[str]) -> Iterator[str]:
        self._check_key("put its own there")
        yield f"kept {self.certificate}, a certificate of your own{self._validity(self.certificate)}"
        yield from self._missing_hosts(hosts)

    def _check_key(self, advice: str) -> None:
        with suppress(PermissionError):  # it may be for the broker's eyes alone
            if not certificates.is_for(self._read(self.certificate), self.key.read_bytes(), self.key):
                raise SettingsError(f"{self.key} is not the key of {self.certificate}: {advice}")

    def _missing_hosts(self, hosts: Sequence[str]) -> Iterator[str]:
        named = certificates.hosts_of(self._read(self.certificate))
        missing = [each for each in hosts if each not in named]
        if missing:
            yield f"NOTE: it is not for {', '.join(missing)}: `nrp broker-access renew` makes one that is"

    def _validity(self, file: Path) -> str:
        days = certificates.days_left(self._read(file))
        if days < 0:
            return ", which has EXPIRED"
        return f", valid for {days} days" + (": time to renew it" if days < RENEW_BEFORE_DAYS else "")

    @staticmethod
    def _read(file: Path) -> Any:
        return certificates.read_certificate(file.read_bytes(), file)

    # -- passwords and rights ------------------------------------------------------------------------------------------

    def keep_accounts(self, topics: Topics, *, update_rights: bool) -> Iterator[str]:
        """Make what is missing of passwords and the plugin's file. Yields what was done.

        Args:
            topics: of the installation.
            update_rights: whether to write the rights anew, when they are not what they would be now.

        Raises:
            SettingsError: something is there that does not go together.
        """
        there = accounts(topics)
        if self.plugin.exists():
            yield from self._check_accounts(there, update_rights=update_rights)
            return
        clients = []
        for account in there:
            file = self.password(account)
            if file.exists():
                yield f"kept {file}"
            else:
                _write(file, secrets.token_urlsafe(32).encode() + b"\n", PRIVATE)
                yield f"made {file}: of user {account.username}"
            clients.append(
                dynamic_security.client(account.username, account.text, _password_in(file), account.username)
            )
        self._write_plugin(dynamic_security.configuration([each.role for each in there], clients))
        yield f"made {self.plugin}: who may do what"

    def _check_accounts(self, there: Sequence[Account], *, update_rights: bool) -> Iterator[str]:
        configuration = self._read_plugin()
        clients = {each.get("username"): each for each in configuration.get("clients", [])}
        for account in there:
            client, file = clients.get(account.username), self.password(account)
            if client is None:
                raise SettingsError(
                    f"{self.plugin} knows no user {account.username}: it is of another installation, or topic prefix."
                    " Another folder is needed for this one"
                )
            if not file.exists():
                raise SettingsError(
                    f"{file} is missing, and {self.plugin} keeps only its hash. Put it back; or stop the broker, remove"
                    f" {self.plugin} and run this again for a new password: simulations that run lose the bus"
                )
            if not dynamic_security.has_password(client, _password_in(file)):
                raise SettingsError(
                    f"The password in {file} is not the one of user {account.username} in {self.plugin}"
                )
            yield f"kept {file}"
        yield from self._keep_rights(configuration, there, update=update_rights)

    def _keep_rights(self, configuration: dict[str, Any], there: Sequence[Account], *, update: bool) -> Iterator[str]:
        roles = {each.get("rolename"): each for each in configuration.get("roles", [])}
        stale = [each for each in there if _rights_in(roles.get(each.username, {})) != _rights_in(each.role)]
        if not stale:
            yield f"kept {self.plugin}"
        elif not update:
            yield (
                f"NOTE: kept {self.plugin}, which gives {', '.join(each.text for each in stale)} other rights than this"
                " version would. To change that stop the broker, and run this again with --update-rights"
            )
        else:
            others = [
                each for each in configuration["roles"] if each["rolename"] not in {one.username for one in stale}
            ]
            self._write_plugin({**configuration, "roles": [*others, *(each.role for each in stale)]})
            yield f"wrote the rights of {', '.join(each.text for each in stale)} anew: start the broker again"

    def _read_plugin(self) -> dict[str, Any]:
        try:
            configuration = json.loads(self.plugin.read_bytes())
        except ValueError as error:
            raise SettingsError(f"{self.plugin} is no JSON: {error}") from error
        if not isinstance(configuration, dict):
            raise SettingsError(f"{self.plugin} is no configuration of the dynamic security plugin")
        return configuration

    def _write_plugin(self, configuration: dict[str, Any]) -> None:
        _write(self.plugin, json.dumps(configuration, indent="\t").encode(), PRIVATE)


def _rights_in(role: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {
        (acl.get("acltype"), acl.get("topic"), acl.get("priority", 0), acl.get("allow")) for acl in role.get("acls", [])
    }


def _password_in(file: Path) -> str:
    return file.read_text().strip()


def _write(file: Path, content: bytes, mode: int) -> None:
    """Write a file in one go, which never existed with more rights than it is to have."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        os.fchmod(descriptor, mode)  # whatever the umask
        if file.exists() and os.geteuid() == 0:
            was = file.stat()
            os.fchown(descriptor, was.st_uid, was.st_gid)
        opened.write(content)
    new.replace(file)
