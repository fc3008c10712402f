"""Write the generated references: REST (OpenAPI), MQTT (AsyncAPI), settings, access; from the code they describe.

python docs/generate.py           write them
python docs/generate.py --check   exit with 1 when one is not what the code says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from nrp_common.access import (
    doctor_rights,
    frontend_rights,
    gateway_rights,
    launcher_rights,
    simulation_rights,
)
from nrp_common.asyncapi import CHANNELS, asyncapi_document
from nrp_common.settings import IN_A_FILE, CommonSettings, is_secret
from nrp_common.topics import Topics
from nrp_gateway.app import openapi_document
from nrp_gateway.settings import GatewaySettings
from nrp_simserver.settings import CoreSettings, LauncherSettings

REFERENCE = Path(__file__).parent / "reference"


def generated() -> dict[str, str]:
    """The files below `reference/`, by name."""
    return {
        "openapi.json": json.dumps(openapi_document(), indent=2, sort_keys=True) + "\n",
        "asyncapi.json": json.dumps(asyncapi_document(), indent=2) + "\n",
        "rest.md": _rest_page(),
        "mqtt.md": _mqtt_page(),
        "settings.md": _settings_page(),
        "access.md": _access_page(),
    }


def _rest_page() -> str:
    lines = [
        "# REST reference",
        "",
        "Generated from the code; for machines: [openapi.json](openapi.json), or `/openapi` of a gateway.",
        "",
        "| call | what it does | answers |",
        "|---|---|---|",
    ]
    for path, operations in openapi_document()["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(sorted(operation["responses"]))
            what = operation.get("summary") or operation.get("description") or ""
            lines.append(f"| `{method.upper()} {path}` | {_cell(what)} | {answers} |")
    return "\n".join(lines) + "\n"


def _mqtt_page() -> str:
    lines = [
        "# MQTT reference",
        "",
        "Generated from the code; as a document for machines: [asyncapi.json](asyncapi.json). All topics may carry a",
        "prefix: `<prefix>/nrp_simulation/...`.",
        "",
        "| topic | what | from | to | QoS | retained | payload |",
        "|---|---|---|---|---|---|---|",
    ]
    for channel in CHANNELS:
        payloads = ", ".join(f"[{payload.__name__}](#{payload.__name__.lower()})" for payload in channel.payloads)
        retained = "yes" if channel.retained else "no"
        lines.append(
            f"| `{channel.topic}` | {_cell(channel.summary)} | {channel.senders} | {channel.receivers} "
            f"| {channel.qos} | {retained} | {payloads or 'raw'} |"
        )
    for name, schema in asyncapi_document()["components"]["schemas"].items():
        lines += ["", f"## {name}", "", _prose(schema.get("description", "")), ""]
        if "enum" in schema:
            lines.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
            continue
        lines += ["| field | type | must be there | meaning |", "|---|---|---|---|"]
        required = schema.get("required", [])
        for field, described in schema["properties"].items():
            meaning = _cell(described.get("description", ""))
            lines.append(f"| `{field}` | {_type(described)} | {'yes' if field in required else 'no'} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(schema: dict) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"array of {_type(schema['items'])}"
    return schema.get("type", "any")


def _access_page() -> str:
    topics, further = Topics(), ("NRP_SIMULATION_TOPICS",)
    lines = [
        "# Access",
        "",
        "Generated from the code: who may do what on a broker that `nrp broker-access` set up. More about it is in",
        "[security](../security.md). Whatever is not here is refused. All topics carry the installation's prefix, but",
        "those with `$`, and those that a launcher allows its simulations with `NRP_SIMULATION_TOPICS`.",
        "",
        "| user | may publish on | may subscribe to, and gets |",
        "|---|---|---|",
    ]
    for name, rights in (
        ("`nrp_gateway`", gateway_rights(topics)),
        ("`nrp_launcher`", launcher_rights(topics)),
        ("`nrp_frontend`", frontend_rights(topics)),
        ("`nrp_doctor`", doctor_rights(topics)),
        ("a simulation", simulation_rights(topics, "<id>", "<incarnation>", further)),
    ):
        publishes = ", ".join(f"`{each}`" for each in rights.publishes) or "nothing"
        if rights.may_not_publish:
            publishes += " without " + ", ".join(f"`{each}`" for each in rights.may_not_publish)
        reads = ", ".join(f"`{each}`" for each in rights.reads)
        if rights.may_ask_for_everything:
            reads += "; a subscription to `#` is taken, and brings the same"
        lines.append(f"| {name} | {publishes} | {reads} |")
    return "\n".join(lines) + "\n"


def _settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Generated from the code. Environment variables of the services; `nrp up` sets most of them by itself.",
    ]
    seen: set[str] = set()
    for title, model in (
        ("Gateway and launcher", CommonSettings),
        ("Gateway", GatewaySettings),
        ("What runs experiments: launcher and `nrp run --local`", CoreSettings),
        ("Launcher", LauncherSettings),
    ):
        lines += ["", f"## {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name not in seen:
                seen.add(name)
                in_a_file = f" Or `NRP_{name.upper()}{IN_A_FILE}`, a file that holds it." if is_secret(field) else ""
                lines += [
                    f"| `{variable}` | {_default(field)} | {_cell((field.description or '') + in_a_file)} |"
                    for variable in _variables(name, field)
                ]
    return "\n".join(lines) + "\n"


def _variables(name: str, field: FieldInfo) -> Iterator[str]:
    yield str(field.validation_alias) if field.validation_alias else f"NRP_{name.upper()}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "of the machine"
    value = field.get_default(call_default_factory=False)
    return "" if value is None or str(value) == "" else f"`{value}`"


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _prose(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    """Write or check the files. Returns the exit status."""
    stale = [name for name, text in generated().items() if not _is(REFERENCE / name, text)]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/reference/{name} is not what the code says: run docs/generate.py")
        return 1 if stale else 0
    REFERENCE.mkdir(exist_ok=True)
    for name, text in generated().items():
        (REFERENCE / name).write_text(text)
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
