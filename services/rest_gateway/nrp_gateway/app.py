"""The Flask application of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from flask import Response, jsonify
from flask_cors import CORS
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from pydantic import SecretStr, ValidationError

from nrp_common import logs
from nrp_gateway.bodies import ErrorBody, describe_fault
from nrp_gateway.errors import RequestError, answer_errors_in_json
from nrp_gateway.gateway import Gateway
from nrp_gateway.metrics import create_blueprint as create_metrics
from nrp_gateway.observation import REQUEST_ID, observed
from nrp_gateway.routes import create_blueprint
from nrp_gateway.settings import GatewaySettings

DESCRIPTION = """\
Launches simulations and rules them. What happens in a simulation is published on the MQTT broker.

Everything but storage and metrics is also served below `/slot/<n>/`, with `n` less than the number of simulations that
can run at once: there `GET /simulation` lists what was launched through that slot only, and `POST /simulation` is
refused while one of these has not ended.

Every answer has a header `X-Request-ID`: the request's, or a new one. Logs name the request by it.

Every error is answered with `{"message", "type", "data"}`.
"""

PREFLIGHT_MAX_AGE_S = 600


def create_app(settings: GatewaySettings | None = None) -> OpenAPI:
    """The application, its gateway started and in `app.extensions["nrp_gateway"]`.

    Args:
        settings: from the environment when not given.

    Raises:
        SettingsError: a setting is wrong.
        Unreachable: the catalogue's database does not answer.
    """
    settings = settings or GatewaySettings.load()
    logs.configure("gateway", settings.log_format)
    gateway = Gateway(settings)
    app = _application(settings, gateway)
    if not settings.storage_url:
        settings.experiments.mkdir(parents=True, exist_ok=True)
    gateway.start()
    app.extensions["nrp_gateway"] = gateway
    return app


def openapi_document() -> dict[str, Any]:
    """What `GET /openapi` answers on a gateway that keeps the experiments itself; none is started for it."""
    # Whatever the environment says, and nothing of this is on the disk.
    settings = GatewaySettings.model_construct(
        catalogue_url=SecretStr("sqlite://"), experiments_directory=Path("nowhere")
    )
    return _application(settings, Gateway(settings)).api_doc


def _application(settings: GatewaySettings, gateway: Gateway) -> OpenAPI:
    """All routes; nothing is started, connected or written."""
    app = OpenAPI(
        __name__,
        info=Info(title="NRP backend", version="4", description=DESCRIPTION),
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
        validation_error_status=400,
        validation_error_model=ErrorBody,
        validation_error_callback=_refuse,
        doc_ui=False,  # it would load its scripts from elsewhere
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    app.url_map.merge_slashes = False  # it would answer with a page that redirects
    app.url_map.strict_slashes = False
    CORS(
        app,
        origins=settings.allowed_origins,
        expose_headers=["Location", "Retry-After", "X-Total-Count", "Content-Disposition", REQUEST_ID],
        max_age=PREFLIGHT_MAX_AGE_S,
    )
    answer_errors_in_json(app)
    app.wsgi_app = observed(app.wsgi_app, gateway.metrics.requests)  # type: ignore[assignment, method-assign]
    app.register_api(create_blueprint(gateway))
    app.register_api(create_blueprint(gateway, below_slots=True))
    app.register_api(create_metrics(gateway.metrics.registry, settings))
    if not settings.storage_url:
        from nrp_gateway.storage.routes import create_blueprint as create_storage  # only where it is used

        app.register_api(create_storage(settings.experiments))

    @app.route("/openapi")
    def get_openapi() -> Response:
        return jsonify(app.api_doc)

    return app


def _refuse(error: ValidationError) -> NoReturn:
    raise RequestError(describe_fault(error.errors(include_url=False))) from error
