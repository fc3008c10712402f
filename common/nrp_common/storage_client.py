"""The client of the Storage Server, where users' experiments are kept: the NRP's own proxy, or a gateway's storage.

Every call raises `StorageUnavailable` when the server cannot be reached or answers with an error of its own,
`InvalidToken` when it does not know the token, and `InvalidName` before asking for what cannot be. Calls that may be
repeated are repeated for a few seconds after lost connections and while a reverse proxy says that its server is
restarting. No error message holds the token.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import requests
import stamina
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from nrp_common.clone_cache import CloneCache, ExperimentCache
from nrp_common.errors import (
    ExperimentNotFound,
    InvalidName,
    InvalidToken,
    SettingsError,
    StorageError,
    StorageForbidden,
    StorageUnavailable,
    StoredFileNotFound,
)
from nrp_common.experiment_files import DEEPEST_FOLDER, checked_experiment_id, checked_path, is_left_out

TIMEOUT: Final = (3.05, 30.0)
"""Seconds to connect (a little more than the three after which TCP asks again), and between two pieces of an answer."""

RETRY_FOR_S: Final = 7.0
"""A launch waits for a storage that restarts, but about ten seconds at most, the last attempt included."""

PARALLEL_FETCHES: Final = 8

CHUNK: Final = 1 << 18
"""Bytes read at once from a file that is streamed."""

LISTS_CLONES: Final = "X-NRP-Clone-Listing"
"""A header in answers of storages that know `clone=true`: all folders at once, without what a run does without."""

UNKNOWN_TOKEN: Final = 477
"""The status with which the NRP's proxy answers a bad token."""

RESTARTING: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
"""What reverse proxies answer while the server behind them is away."""

AnswerT = TypeVar("AnswerT")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")


class Identity(_Answer):
    """Who a token belongs to."""

    id: str = Field(min_length=1)
    display_name: str = Field("", alias="displayName")


class StoredExperiment(_Answer):
    """An experiment in the storage."""

    uuid: str
    """Its id, which all calls take."""
    name: str = ""
    """Shown to people."""
    owned: bool = False
    """Whether the caller owns it, rather than being let see it."""
    configuration: dict[str, Any] | None = None
    """Its configuration file, None when it has none that can be read."""


class StoredFile(_Answer):
    """A file or folder of an experiment."""

    name: str
    """Relative to the folder that was listed."""
    uuid: str = ""
    """Its id, which starts with the experiment's."""
    size: int | None = None
    """In bytes; of no meaning for a folder."""
    type: str = "file"
    """`file` or `folder`."""
    modified_on: str = Field("", alias="modifiedOn")
    """The time of the last change as the server writes it, "" when it does not say."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.type == "folder"

    @property
    def modified_at(self) -> float | None:
        """The time of the last change in seconds since 1970, None when the server does not say."""
        try:
            return datetime.fromisoformat(self.modified_on).timestamp()
        except ValueError:
            return None

    @property
    def version(self) -> tuple[object, ...] | None:
        """What a change of the content changes too, None when the server does not say."""
        return (self.size, self.modified_on) if self.modified_on else None


_IDENTITY: Final = TypeAdapter(Identity)
_EXPERIMENTS: Final = TypeAdapter(list[StoredExperiment])
_EXPERIMENT: Final = TypeAdapter(StoredExperiment)
_FILES: Final = TypeAdapter(list[StoredFile])


class _Place(NamedTuple):
    """Something that can be asked for: its URL below the server's, and what it is called in messages."""

    url: str
    name: str


_WHO_AM_I: Final = _Place("/identity/me", "the caller's identity")
_ALL_EXPERIMENTS: Final = _Place("/storage/experiments", "the list of experiments")


def _place(experiment_id: str, path: str = "") -> _Place:
    url = f"/storage/{quote(checked_experiment_id(experiment_id), safe='')}"
    if not path:
        return _Place(url, f"the experiment '{experiment_id}'")
    # The NRP's proxy takes one level after the experiment: separators are encoded.
    return _Place(f"{url}/{quote(checked_path(path), safe='')}", f"'{path}' in the experiment '{experiment_id}'")


def _folder_place(experiment_id: str, folder: str) -> _Place:
    if not folder:
        return _place(experiment_id)
    name = f"the folder '{folder}' of the experiment '{experiment_id}'"
    return _Place(f"/storage/{quote(checked_experiment_id(experiment_id) + '/' + checked_path(folder), safe='')}", name)


class StorageClient:
    """One caller at a Storage Server. May be used from several threads.

    Args:
        base_url: what comes before `/storage/...` and `/identity/me`, with scheme.
        token: the caller's bearer token, None for none.
        timeout: seconds to connect, and between two pieces of an answer.
        retry_for_s: for how long a call that failed for a passing reason is repeated, 0 for not at all.

    Raises:
        SettingsError: `base_url` is no HTTP address.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise SettingsError(f"NRP_STORAGE_URL: '{base_url}' is no address that starts with http:// or https://")
        self.base_url = base_url.rstrip("/")
        self.host = address.netloc.rpartition("@")[2]
        self._token = token
        self._timeout = timeout
        self._retry_for_s = retry_for_s
        self._session = _new_session(address.hostname)

    def with_token(self, token: str | None) -> Self:
        """The same storage for another caller; both share their connections."""
        other = copy(self)
        other._token = token
        return other

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # -- who may do what -----------------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Who the caller is.

        Raises:
            InvalidToken: there is no token, or the server does not know it.
        """
        response = self._send("GET", _WHO_AM_I)
        if self._token is None and response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InvalidToken(f"The Storage Server at {self.host} asks for a token")  # how the NRP's proxy says it
        return self._decoded(self._checked(response, "GET", _WHO_AM_I), _IDENTITY, _WHO_AM_I)

    def may_view(self, experiment_id: str) -> bool:
        """Whether the experiment exists and the caller owns it or was let see it."""
        try:
            self.files(experiment_id)
        except (StorageForbidden, ExperimentNotFound, InvalidName):
            return False
        return True

    # -- experiments ---------------------------------------------------------------------------------------------------

    def experiments(self, name: str | None = None) -> list[StoredExperiment]:
        """The experiments that the caller may see, those called `name` only when it is given."""
        wanted = {} if name is None else {"filter": name}
        return self._decoded(self._ask("GET", _ALL_EXPERIMENTS, params=wanted), _EXPERIMENTS, _ALL_EXPERIMENTS)

    def create(self, experiment_id: str) -> str:
        """Make an empty experiment. Returns its id, which the server may have chosen differently."""
        place = _place(experiment_id)
        return self._decoded(self._ask("PUT", place, repeat=False), _EXPERIMENT, place).uuid

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment with all its files.

        Raises:
            ExperimentNotFound: there is none of this id, or the server cannot delete: the NRP's proxy does not.
        """
        self._ask("DELETE", _place(experiment_id))

    # -- files ---------------------------------------------------------------------------------------------------------

    def files(self, experiment_id: str, folder: str = "") -> list[StoredFile]:
        """What lies in the experiment, or in a folder of it, subfolders not included.

        Raises:
            ExperimentNotFound: there is no such experiment or folder.
            StorageForbidden: the same, or the caller may not see it: the NRP's proxy does not tell them apart.
        """
        place = _folder_place(experiment_id, folder)
        return self._decoded(self._ask("GET", place), _FILES, place)

    def read(self, experiment_id: str, path: str) -> bytes:
        """The content of a file.

        Raises:
            StoredFileNotFound: there is no such file, or the caller may not read it.
        """
        return b"".join(self.open(experiment_id, path))

    def open(self, experiment_id: str, path: str) -> Iterator[bytes]:
        """The content of a file, piece by piece.

        Raises:
            StoredFileNotFound: there is no such file, or the caller may not read it.
            StorageUnavailable: also while iterating, when the connection is lost in the middle.
        """
        place = _place(experiment_id, path)
        response = self._ask("GET", place, params={"byname": "true"}, stream=True)
        if response.status_code == HTTPStatus.NO_CONTENT:
            response.close()
            raise StoredFileNotFound(f"There is no {place.name}, or it may not be read")
        return self._pieces(response, place)

    def write(self, experiment_id: str, path: str, data: bytes | Path | BinaryIO) -> None:
        """Store a file, replacing what was there; missing folders are made.

        Args:
            experiment_id: of an experiment that exists.
            path: of the file in it.
            data: the content, a file with it, or one opened for reading in binary mode that can seek.

        Raises:
            ExperimentNotFound: there is no such experiment.
            StorageForbidden: the same, or the caller may not write into it.
        """
        if isinstance(data, Path):
            with data.open("rb") as opened:
                self.write(experiment_id, path, opened)
            return
        # The NRP's proxy decodes other types as text.
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("POST", _place(experiment_id, path), data=data, headers=headers)

    def make_folder(self, experiment_id: str, path: str) -> None:
        """Make a folder; nothing happens when it is there."""
        self._ask("POST", _place(experiment_id, path), params={"type": "folder"})

    def delete_file(self, experiment_id: str, path: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        self._ask("DELETE", _place(experiment_id, path), params={"byname": "true", "type": "file"})

    def _pieces(self, response: requests.Response, place: _Place) -> Iterator[bytes]:
        try:
            with response:
                yield from response.iter_content(CHUNK)
        except requests.Timeout as error:
            raise self._unavailable("GET", place, error) from error
        except requests.RequestException as error:
            raise _CutOff(str(self._unavailable("GET", place, error))) from error

    # -- clones --------------------------------------------------------------------------------------------------------

    def clone(self, experiment_id: str, destination: Path, cache: CloneCache | None = None) -> None:
        """Copy an experiment into `destination`, without the logs and results of earlier runs.

        Times of change are kept, empty folders are made. What the cache holds in the same version is not fetched. After
        an error an unfinished clone is left.

        Args:
            experiment_id: of the experiment.
            destination: a folder, made when missing.
            cache: shared by clones, also by those of other processes; None for none.

        Raises:
            ExperimentNotFound: there is no such experiment.
            StorageForbidden: the same, or the caller may not see it: the NRP's proxy does not tell them apart.
            InvalidName: the server names a file that would lie outside `destination`.
        """
        known = cache.of_experiment(self.base_url, experiment_id) if cache is not None else None
        destination.mkdir(parents=True, exist_ok=True)
        missing = []
        for each in self._files_to_clone(experiment_id):
            target = destination / each.name
            if each.is_folder:
                target.mkdir(parents=True, exist_ok=True)
            elif not _copied(each, known, target):
                missing.append(each)
        if cache is None or known is None:
            self._fetch_all(experiment_id, missing, destination, None)
            return
        if missing:
            with known.filling:  # somebody may just have fetched them
                missing = [each for each in missing if not _copied(each, known, destination / each.name)]
                self._fetch_all(experiment_id, missing, destination, known)
        known.forget_unused()
        if missing:
            cache.shrink()

    def _files_to_clone(self, experiment_id: str) -> list[StoredFile]:
        """All that a run needs, named relative to the experiment; each folder before what lies in it."""
        place = _place(experiment_id)
        response = self._ask("GET", place, params={"clone": "true"})
        found = _needed(self._decoded(response, _FILES, place))
        if LISTS_CLONES not in response.headers:
            waiting = [each for each in found if each.is_folder]
            while waiting:
                folder = waiting.pop().name
                if folder.count("/") >= DEEPEST_FOLDER:
                    raise InvalidName(f"The experiment '{experiment_id}' has folders within folders without end")
                inside = _needed(self.files(experiment_id, folder), folder)
                found += inside
                waiting += [each for each in inside if each.is_folder]
        return found

    def _fetch_all(
        self, experiment_id: str, files: list[StoredFile], destination: Path, known: ExperimentCache | None
    ) -> None:
        if not files:
            return
        with ThreadPoolExecutor(min(PARALLEL_FETCHES, len(files)), thread_name_prefix="fetch") as pool:
            try:
                for _ in pool.map(lambda each: self._fetch(experiment_id, each, destination / each.name, known), files):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch(self, experiment_id: str, file: StoredFile, target: Path, known: ExperimentCache | None) -> None:
        for attempt in self._attempts(_CutOff):
            with attempt, target.open("wb") as opened:
                opened.writelines(self.open(experiment_id, file.name))
        _keep_time(file, target)
        if known is not None and file.version is not None:
            known.add(file.name, file.version, target)

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    def _ask(self, method: str, place: _Place, *, repeat: bool = True, **arguments: Any) -> requests.Response:
        return self._checked(self._send(method, place, repeat=repeat, **arguments), method, place)

    def _send(self, method: str, place: _Place, *, repeat: bool = True, **arguments: Any) -> requests.Response:
        """The server's answer, whatever its status."""
        body = arguments.get("data")
        start = body.tell() if body is not None and hasattr(body, "tell") else None
        try:
            for attempt in self._attempts(_may_pass, repeat=repeat):
                with attempt:
                    if body is not None and start is not None:
                        body.seek(start)
                    response = self._session.request(
                        method,
                        self.base_url + place.url,
                        auth=self._authorize,
                        timeout=self._timeout,
                        allow_redirects=method == "GET",  # anything else would be repeated as a GET
                        **arguments,
                    )
                    if response.status_code in RESTARTING:
                        response.close()
                        raise _Restarting(f"it answered {response.status_code}")
        except (requests.RequestException, _Restarting) as error:
            raise self._unavailable(method, place, error) from error
        return response

    def _attempts(
        self, on: type[Exception] | Callable[[Exception], bool], *, repeat: bool = True
    ) -> Iterable[stamina.Attempt]:
        return stamina.retry_context(
            on=on,
            attempts=None if repeat and self._retry_for_s else 1,
            timeout=self._retry_for_s or None,
            wait_initial=0.05,
            wait_max=2.0,
            wait_jitter=0.05,
        )

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Without a callable, requests would take a password from ~/.netrc and drop the token for it.
        if self._token is not None:
            if not (self._token.isascii() and self._token.isprintable()):
                raise InvalidToken("The bearer token holds characters that no token can have")
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _checked(self, response: requests.Response, method: str, place: _Place) -> requests.Response:
        status = response.status_code
        if response.ok and not response.is_redirect:
            return response
        with response:
            if status in (HTTPStatus.UNAUTHORIZED, UNKNOWN_TOKEN):
                raise InvalidToken(f"The Storage Server at {self.host} does not know the bearer token")
            if status == HTTPStatus.FORBIDDEN:
                raise StorageForbidden(f"{_capitalised(place.name)} does not exist or is not yours")
            if status == HTTPStatus.NOT_FOUND:
                raise ExperimentNotFound(f"There is no such thing as {place.name}")
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise self._unavailable(method, place, f"it answered {status}{_said(response)}")
            raise StorageError(
                f"The Storage Server at {self.host} answered {status} to {method} {place.url}{_said(response)}"
            )

    def _decoded(self, response: requests.Response, answer: TypeAdapter[AnswerT], place: _Place) -> AnswerT:
        try:
            return answer.validate_json(response.content)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise StorageError(
                f"What the Storage Server at {self.host} says of {place.name} cannot be understood: {fault}"
            ) from error

    def _unavailable(self, method: str, place: _Place, reason: Exception | str) -> StorageUnavailable:
        match reason:
            case requests.Timeout():
                reason = "no answer in time"
            case requests.RequestException():
                reason = f"no connection ({type(reason).__name__})"
        return StorageUnavailable(f"The Storage Server at {self.host} failed at {method} {place.url}: {reason}")


class _Restarting(Exception):
    """A reverse proxy says that the server behind it is away."""


class _CutOff(StorageUnavailable):
    """The connection was lost in the middle of a file."""


class _KeptAliveAdapter(HTTPAdapter):
    """Connections that notice a peer that vanished, as many as a clone uses at once."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=PARALLEL_FETCHES)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        keep_alive = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        ]
        options["socket_options"] = [*HTTPConnection.default_socket_options, *keep_alive]
        super().init_poolmanager(*arguments, **options)


def _new_session(host: str) -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _KeptAliveAdapter())
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # several callers share the connections
    session.trust_env = not _is_loopback(host)  # HTTP_PROXY leads out of the machine
    return session


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(error, requests.exceptions.SSLError):  # a connection error to requests
        return False
    return isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, _Restarting))


def _said(response: requests.Response) -> str:
    try:
        message = str(response.json()["message"])
    except (ValueError, KeyError, TypeError, requests.RequestException):
        return ""
    return f": {message[:200]}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _needed(files: list[StoredFile], folder: str = "") -> list[StoredFile]:
    """The files that a run needs, named relative to the experiment.

    Raises:
        InvalidName: one of them cannot be a file in a folder.
    """
    named = [
        each.model_copy(update={"name": f"{folder}/{checked_path(each.name)}"}) if folder else each for each in files
    ]
    return [each for each in named if not is_left_out(checked_path(each.name), is_folder=each.is_folder)]


def _copied(file: StoredFile, known: ExperimentCache | None, target: Path) -> bool:
    if known is None or file.version is None or not known.copy(file.name, file.version, target):
        return False
    _keep_time(file, target)
    return True


def _keep_time(file: StoredFile, target: Path) -> None:
    if file.modified_at is not None:
        os.utime(target, (file.modified_at, file.modified_at))
