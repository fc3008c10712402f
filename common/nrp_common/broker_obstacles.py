"""Why a broker cannot be reached, in words that say what to do about it."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

CLOSED: Final = "it closes the connection without an answer: it may want TLS (NRP_MQTT_TLS), or be no MQTT 5 broker"

NO_TLS: Final = "it speaks no TLS on this port (NRP_MQTT_TLS)"

_WRONG_HOST: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10

_CREDENTIALS_WRONG: Final = ("Not authorized", "Bad user name or password")


def obstacle_of(error: BaseException | None, host: str, *, tls: bool) -> str:
    """Why no connection came about.

    Args:
        error: what was raised, None when nothing was.
        host: as which the broker was addressed.
        tls: whether TLS was spoken.
    """
    match error:
        case ConnectionResetError() | ssl.SSLEOFError() if tls:
            return NO_TLS
        case ssl.SSLCertVerificationError(verify_code=code) if code in _WRONG_HOST:
            return f"its certificate is not for '{host}' ({error.verify_message})"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _EXPIRED:
            return "its certificate has expired"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _NOT_YET_VALID:
            return "its certificate is not valid yet: see that the clocks are right"
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is signed by nobody that is trusted here ({error.verify_message}): NRP_MQTT_CA_FILE"
                " names who is"
            )
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "PACKET_LENGTH_TOO_LONG" | "RECORD_LAYER_FAILURE"):
            return NO_TLS
        case ssl.SSLError():
            return f"TLS with it fails: {error.reason or error}"
        case socket.gaierror():
            return f"there is no host '{host}' ({error.strerror})"
        case None:
            return "no connection"
    return str(error) or type(error).__name__


def refusal_of(reason: ReasonCode, username: str | None) -> str:
    """Why a broker did not let a client in.

    Args:
        reason: what it said.
        username: of the client, None when it had none.
    """
    if str(reason) not in _CREDENTIALS_WRONG:
        return f"it says {reason}"
    if username is None:
        return f"it says {reason} to a client without user name: it asks for NRP_MQTT_USERNAME and a password"
    return f"it says {reason} to user '{username}': the password is wrong, or there is no such user"
