"""The routes of a Storage Server (section 3 of the NRP 4 contract) over a folder of experiments.

There are no users: whoever reaches the gateway owns everything. Separators of paths may come as `%2F`, as NRP 4 clients
send them, or plain: the two look the same to a WSGI application. What tells a file from a folder is `byname=true`.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

from flask import Response, jsonify, request, send_file
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field, RootModel

from nrp_common.errors import StoredFileNotFound
from nrp_common.storage_client import LISTS_CLONES, Identity, StoredExperiment, StoredFile
from nrp_gateway.bodies import ErrorBody
from nrp_gateway.errors import RequestError
from nrp_gateway.identity import DEFAULT_OWNER
from nrp_gateway.storage.experiment_store import CHUNK, ExperimentStore

STORAGE: Final = Tag(name="storage", description="The gateway's own storage of experiments.")

BYTES: Final = "application/octet-stream"

LARGEST_DRAINED: Final = 1 << 26
"""Bytes of a refused upload that are read all the same, so that its sender gets to read why."""


class LengthRequired(RequestError):
    """A file has to be sent with its Content-Length: without one a file that was cut off looks whole."""

    status = HTTPStatus.LENGTH_REQUIRED


class ExperimentPath(BaseModel):
    """Which experiment."""

    experiment: str


class FilePath(ExperimentPath):
    """Which file or folder."""

    path: str = Field(description="Relative to the experiment; separators may be encoded as %2F.")


class ListFilter(BaseModel):
    """Which experiments."""

    filter: str | None = Field(None, description="Only those of this name.")


class Listing(BaseModel):
    """How to list."""

    clone: bool = Field(
        False, description="All folders at once, names relative to the experiment, without logs and results of runs."
    )


class ByName(BaseModel):
    """What the path names."""

    byname: bool = Field(False, description="The path names a file, to be read; without it a folder, to be listed.")


class Kind(BaseModel):
    """What the path names."""

    type: Literal["file", "folder"] = "file"


class ExperimentsBody(RootModel[list[StoredExperiment]]):
    """Experiments, by id."""


class FilesBody(RootModel[list[StoredFile]]):
    """Files and folders, by name."""


class CreatedBody(BaseModel):
    """The experiment that was made."""

    uuid: str


Answers = dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None]

_TEXT: Final[dict[Any, Any]] = {"schema": {"type": "string"}}
_BINARY: Final[dict[Any, Any]] = {"schema": {"type": "string", "format": "binary"}}

_ERRORS: Final[Answers] = {HTTPStatus.BAD_REQUEST: ErrorBody, HTTPStatus.NOT_FOUND: ErrorBody}
_DONE: Final[Answers] = {HTTPStatus.OK: {"description": "Done."}}
_NOT_THERE: Final[Answers] = {HTTPStatus.NO_CONTENT: {"description": "There is no such file."}}
_FULL: Final[Answers] = {HTTPStatus.INSUFFICIENT_STORAGE: ErrorBody}


def create_blueprint(root: Path) -> APIBlueprint:
    """The routes over the experiments in the folder `root`, which exists."""
    blueprint = APIBlueprint("storage", __name__, abp_tags=[STORAGE], abp_responses=_ERRORS)
    store = ExperimentStore(root)
    _add_identity_routes(blueprint)
    _add_experiment_routes(blueprint, store)
    _add_reading_routes(blueprint, store)
    _add_writing_routes(blueprint, store)
    return blueprint


# -- who may do what -------------------------------------------------------------------------------------------------


def _add_identity_routes(blueprint: APIBlueprint) -> None:
    @blueprint.post("/authentication/authenticate", responses={HTTPStatus.OK: {"content": {"text/plain": _TEXT}}})
    def authenticate() -> Response:
        """A token, the same for every user and password."""
        return Response(DEFAULT_OWNER, mimetype="text/plain")

    @blueprint.get("/identity/me", responses={HTTPStatus.OK: Identity})
    def get_identity() -> Response:
        """Who the caller is: everybody is the same."""
        return jsonify(_json(Identity(id=DEFAULT_OWNER, display_name=DEFAULT_OWNER)))


# -- experiments -----------------------------------------------------------------------------------------------------


def _add_experiment_routes(blueprint: APIBlueprint, store: ExperimentStore) -> None:
    @blueprint.get("/storage/experiments", responses={HTTPStatus.OK: ExperimentsBody})
    def list_experiments(query: ListFilter) -> Response:
        """List the experiments."""
        wanted = query.filter
        return jsonify([_json(each) for each in store.experiments() if not wanted or each.name == wanted])

    @blueprint.get(
        "/storage/experiments/<experiment>/zip",
        responses={HTTPStatus.OK: {"content": {"application/zip": _BINARY}}, **_FULL},
    )
    def zip_experiment(path: ExperimentPath) -> Response:
        """An experiment as a zip archive, without logs and results of runs."""
        return send_file(
            store.zip(path.experiment),
            mimetype="application/zip",
            as_attachment=True,
            download_name=f"{path.experiment}.zip",
        )

    @blueprint.put("/storage/<experiment>", responses={HTTPStatus.OK: CreatedBody})
    def create_experiment(path: ExperimentPath) -> Response:
        """Make an empty experiment; one that is there stays as it is."""
        store.create(path.experiment)
        return jsonify(uuid=path.experiment)

    @blueprint.delete("/storage/<experiment>", responses=_DONE)
    def delete_experiment(path: ExperimentPath) -> Response:
        """Delete an experiment with all that it holds."""
        if "type" in request.args or "byname" in request.args:  # a client whose name of a file came out empty
            raise RequestError(f"No file of the experiment '{path.experiment}' is named")
        store.delete(path.experiment)
        return Response()


# -- files -----------------------------------------------------------------------------------------------------------


def _add_reading_routes(blueprint: APIBlueprint, store: ExperimentStore) -> None:
    @blueprint.get("/storage/<experiment>", responses={HTTPStatus.OK: FilesBody})
    def list_files(path: ExperimentPath, query: Listing) -> Response:
        """List what lies in an experiment."""
        if not query.clone:
            return _listed(store.files(path.experiment))
        answer = _listed(store.files_for_a_run(path.experiment))
        answer.headers[LISTS_CLONES] = "true"
        return answer

    @blueprint.get(
        "/storage/<experiment>/<path:path>",
        responses={HTTPStatus.OK: {"content": {BYTES: _BINARY, "application/json": {}}}, **_NOT_THERE},
    )
    def read(path: FilePath, query: ByName) -> Response:
        """Read a file, or list what lies in a folder."""
        if not query.byname:
            return _listed(store.files(path.experiment, path.path))
        try:
            return send_file(store.path_of(path.experiment, path.path), mimetype=BYTES)
        except StoredFileNotFound:
            return Response(status=HTTPStatus.NO_CONTENT)


def _add_writing_routes(blueprint: APIBlueprint, store: ExperimentStore) -> None:
    @blueprint.post(
        "/storage/<experiment>/<path:path>",
        responses={**_DONE, HTTPStatus.LENGTH_REQUIRED: ErrorBody, **_FULL},
        openapi_extensions={"requestBody": {"content": {BYTES: _BINARY}}},
    )
    def write(path: FilePath, query: Kind) -> Response:
        """Store a file, or make a folder; missing folders are made."""
        if query.type == "folder":
            store.make_folder(path.experiment, path.path)
            return Response()
        try:
            store.write(path.experiment, path.path, request.stream, _content_length())  # type: ignore[arg-type]
        except Exception:
            _drain()
            raise
        return Response()

    @blueprint.delete("/storage/<experiment>/<path:path>", responses={**_DONE, **_NOT_THERE})
    def delete(path: FilePath, query: Kind) -> Response:
        """Delete a file, or a folder with all that it holds."""
        try:
            if query.type == "folder":
                store.delete_folder(path.experiment, path.path)
            else:
                store.delete_file(path.experiment, path.path)
        except StoredFileNotFound:
            return Response(status=HTTPStatus.NO_CONTENT)
        return Response()


def _content_length() -> int:
    is_chunked = request.content_length is None and "Transfer-Encoding" in request.headers
    if is_chunked and request.stream.read(1):  # Python's requests sends empty files so, too
        raise LengthRequired
    return request.content_length or 0


def _drain() -> None:
    left = LARGEST_DRAINED
    while left > 0 and (piece := request.stream.read(CHUNK)):
        left -= len(piece)


# -- bodies ----------------------------------------------------------------------------------------------------------


def _json(answer: BaseModel) -> dict[str, Any]:
    return answer.model_dump(by_alias=True)


def _listed(files: Sequence[StoredFile]) -> Response:
    return jsonify([_json(each) for each in files])
