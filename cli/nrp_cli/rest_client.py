"""A client of the REST API, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from nrp_common.errors import NRPError
from nrp_common.experiment_files import is_left_out

TIMEOUT_S = (5, 60)
"""To connect and to answer: a launch may take 25 s before the gateway answers."""

Simulation = dict[str, Any]


class ServerUnreachable(NRPError):
    """There is no gateway at the address."""


class CallRefused(NRPError):
    """The gateway answered with an error; the message is its own."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RestClient:
    """Calls to one gateway; used as a context manager.

    Args:
        url: of the gateway.
        token: the bearer token, None where there is no authentication.

    Every method raises `ServerUnreachable` or `CallRefused`.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    # -- simulations ---------------------------------------------------------------------------------------------------

    def launch(
        self,
        experiment: str,
        configuration: str | None = None,
        main_script: str | None = None,
        real_time_factor: float | None = None,
    ) -> Simulation:
        """Launch an experiment. Returns the simulation's record."""
        body = {
            "experimentID": experiment,
            "experimentConfiguration": configuration,
            "mainScript": main_script,
            "realTimeFactor": real_time_factor,
        }
        given = {key: value for key, value in body.items() if value is not None}
        launched: Simulation = self._json("POST", "/simulation", json=given)
        return launched

    def simulations(self, **filters: str | list[str] | None) -> list[Simulation]:
        """The records of all simulations that `filters` let through."""
        given = {key: value for key, value in filters.items() if value}
        found: list[Simulation] = self._json("GET", "/simulation", params=given)
        return found

    def simulation(self, simulation_id: int) -> Simulation:
        """The record of one simulation."""
        found: Simulation = self._json("GET", f"/simulation/{simulation_id}")
        return found

    def set_state(self, simulation_id: int, state: str) -> str:
        """Ask for a state. Returns the one that was reached."""
        answer: dict[str, str] = self._json("PUT", f"/simulation/{simulation_id}/state", json={"state": state})
        return answer["state"]

    def reset(self, simulation_id: int) -> str:
        """Bring a simulation back to its beginning. Returns its state."""
        answer: dict[str, str] = self._json("POST", f"/simulation/{simulation_id}/reset")
        return answer["state"]

    def step(self, simulation_id: int, iterations: int) -> str:
        """Advance a paused simulation. Returns its state afterwards."""
        answer: dict[str, str] = self._json(
            "POST", f"/simulation/{simulation_id}/step", json={"iterations": iterations}
        )
        return answer["state"]

    def delete(self, simulation_id: int) -> None:
        """Stop a simulation and remove its record."""
        self._call("DELETE", f"/simulation/{simulation_id}")

    def download(self, simulation_id: int, kind: str, folder: Path) -> Path | None:
        """Fetch the archive of a simulation's `logs` or `results` into `folder`.

        Returns:
            Its path, None when there is none.
        """
        try:
            answer = self._call("GET", f"/simulation/{simulation_id}/{kind}")
        except CallRefused as refusal:
            if refusal.status == requests.codes.not_found:
                return None
            raise
        record = self.simulation(simulation_id)
        path = folder / (record.get(kind) or f"simulation_{simulation_id}.{kind}.zip")
        path.write_bytes(answer.content)
        return path

    # -- experiments ---------------------------------------------------------------------------------------------------

    def experiments(self) -> list[dict[str, Any]]:
        """All experiments that the caller may see."""
        found: list[dict[str, Any]] = self._json("GET", "/storage/experiments")
        return found

    def import_experiment(self, folder: Path, name: str) -> str:
        """Copy a folder into the storage as experiment `name`, without logs of earlier runs. Returns the id it got."""
        created: dict[str, str] = self._json("PUT", f"/storage/{quote(name, safe='')}")
        experiment = created["uuid"]
        for path in _files(folder):
            target = quote(path.relative_to(folder).as_posix(), safe="")
            with path.open("rb") as content:
                self._call(
                    "POST",
                    f"/storage/{quote(experiment, safe='')}/{target}",
                    data=content,
                    headers={"Content-Type": "application/octet-stream"},
                )
        return experiment

    def export_experiment(self, experiment: str, destination: Path) -> None:
        """Write an experiment as a zip file."""
        answer = self._call("GET", f"/storage/experiments/{quote(experiment, safe='')}/zip")
        destination.write_bytes(answer.content)

    def delete_experiment(self, experiment: str) -> None:
        """Remove an experiment with all that it holds."""
        self._call("DELETE", f"/storage/{quote(experiment, safe='')}")

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        return self._call(method, path, **arguments).json()

    def _call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            answer = self._session.request(method, self.url + path, timeout=TIMEOUT_S, **arguments)
        except requests.RequestException as error:
            raise ServerUnreachable(
                f"Nothing answers at {self.url}: {type(error).__name__}. Start it with `nrp up`, or name it with --url"
            ) from error
        if not answer.ok:
            raise CallRefused(_message_in(answer), answer.status_code)
        return answer


def _message_in(answer: requests.Response) -> str:
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.method} {answer.request.path_url} was answered {answer.status_code} {answer.reason}"
    return str(message)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and ".git" not in relative.parts and not is_left_out(relative.as_posix()):
            yield path
