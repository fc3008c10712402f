"""Rights and clients as Mosquitto's dynamic security plugin writes them: in its file, and in the orders it takes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from typing import Any, Final

from nrp_common.access import EVERYTHING, Rights

HASH: Final = "sha512"

HASH_SIZE: Final = 64
"""In bytes."""

SALT_SIZE: Final = 12
"""In bytes; the plugin takes no other."""

ITERATIONS: Final = 101
"""As the plugin does it itself. The passwords here are random and long: there is nothing to be gained by guessing, and
the broker, which has one thread, derives the key at each connection."""

REFUSAL_FIRST: Final = 10
"""The priority of what takes a right away again, over 0 of what grants it."""

DENIED_BY_DEFAULT: Final = {
    "publishClientSend": False,
    "publishClientReceive": False,
    "subscribe": False,
    "unsubscribe": True,
}


def role(name: str, text: str, rights: Rights) -> dict[str, Any]:
    """A role that grants rights."""
    return {"rolename": name, "textname": text, "acls": _acls(rights)}


def _acls(rights: Rights) -> list[dict[str, Any]]:
    granted = [
        *(("publishClientSend", each) for each in rights.publishes),
        *(("publishClientReceive", each) for each in rights.reads),
        *(("subscribePattern", each) for each in rights.reads),
        *([("subscribeLiteral", EVERYTHING)] if rights.may_ask_for_everything else []),
    ]
    taken_away = [("publishClientSend", each) for each in rights.may_not_publish]
    return [
        *(_acl(kind, topic, priority=REFUSAL_FIRST, allow=False) for kind, topic in taken_away),
        *(_acl(kind, topic, priority=0, allow=True) for kind, topic in granted),
    ]


def _acl(kind: str, topic: str, *, priority: int, allow: bool) -> dict[str, Any]:
    return {"acltype": kind, "topic": topic, "priority": priority, "allow": allow}


def client(username: str, text: str, password: str, role_name: str) -> dict[str, Any]:
    """A client of the file, whose password only its hash knows."""
    salt = os.urandom(SALT_SIZE)
    return {
        "username": username,
        "textname": text,
        "roles": [{"rolename": role_name}],
        "password": _in_base64(_hashed(password, salt, ITERATIONS)),
        "salt": _in_base64(salt),
        "iterations": ITERATIONS,
    }


def has_password(client: dict[str, Any], password: str) -> bool:
    """Whether this is the password of a client of the file."""
    try:
        salt, known = base64.b64decode(client["salt"]), base64.b64decode(client["password"])
        return hmac.compare_digest(_hashed(password, salt, int(client["iterations"])), known)
    except (KeyError, TypeError, ValueError):
        return False


def _hashed(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac(HASH, password.encode(), salt, iterations, HASH_SIZE)


def _in_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def configuration(roles: list[dict[str, Any]], clients: list[dict[str, Any]]) -> dict[str, Any]:
    """The plugin's file."""
    return {"defaultACLAccess": DENIED_BY_DEFAULT, "clients": clients, "groups": [], "roles": roles}
