from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from nrp_common.errors import SettingsError
from nrp_common.token_seal import seal_token, unseal_token


@pytest.mark.parametrize(
    "key",
    [Fernet.generate_key().decode(), "any text", "ümläut", "x" * 1000],
    ids=["generated", "any", "umlauts", "long"],
)
def test_a_sealed_token_is_unsealed_with_the_same_key(key: str) -> None:
    assert unseal_token(seal_token("token", key), key) == "token"


def test_a_sealed_token_shows_nothing_of_it() -> None:
    assert "token" not in seal_token("token", "key")
    assert seal_token("token", "key") != seal_token("token", "key")


def test_no_token_stays_none_and_needs_no_key() -> None:
    assert seal_token(None, "") == ""
    assert unseal_token("", "") is None


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SettingsError, match="NRP_SECRET_KEY is not the one"):
        unseal_token(seal_token("token", "key"), "other key")


@pytest.mark.parametrize("sealed", ["x", "ümlaut", "gAAAAA", "\0"])
def test_what_was_never_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(SettingsError):
        unseal_token(sealed, "key")


def test_a_token_is_not_sealed_without_a_key() -> None:
    with pytest.raises(SettingsError, match="NRP_SECRET_KEY is needed"):
        seal_token("token", "")
