"""Users' bearer tokens sealed for the bus, which everybody reads: gateways and launchers share the key."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from nrp_common.errors import SettingsError


def seal_token(token: str | None, secret_key: str) -> str:
    """`token` encrypted; "" when there is none.

    Raises:
        SettingsError: there is a token and no key.
    """
    return "" if token is None else _fernet(secret_key).encrypt(token.encode()).decode()


def unseal_token(sealed: str, secret_key: str) -> str | None:
    """The token that was sealed; None when there was none.

    Raises:
        SettingsError: there is no key, or it is not the one that the token was sealed with.
    """
    if not sealed:
        return None
    try:
        return _fernet(secret_key).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise SettingsError("NRP_SECRET_KEY is not the one that a user's token was sealed with") from error


def _fernet(secret_key: str) -> Fernet:
    if not secret_key:
        raise SettingsError("NRP_SECRET_KEY is needed where users have tokens")
    try:
        return Fernet(secret_key)
    except ValueError:  # any text is as good
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret_key.encode()).digest()))
