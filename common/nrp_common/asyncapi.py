"""The AsyncAPI 3.0 document of the bus, generated from topics and messages: what is on the wire, and who says it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from nrp_common import messages
from nrp_common.messages import Message
from nrp_common.topics import Topics


@dataclass(frozen=True)
class Channel:
    """A family of topics.

    Attributes:
        topic: with its variable levels in braces.
        summary: what it is for.
        senders: who publishes.
        receivers: who reads.
        qos: MQTT's quality of service, 0 or 1.
        retained: whether the broker keeps the last message.
        payloads: the messages, by model; none where the payload is no JSON of ours.
    """

    topic: str
    summary: str
    senders: str
    receivers: str
    qos: int
    retained: bool
    payloads: tuple[type[Message], ...] = ()


_topics = Topics()
_ID = "{simulationID}"

CHANNELS = (
    Channel(
        _topics.status(_ID),
        "Times and state, on each change of state and at the status rate; and progress messages (not retained).",
        "simulation server, launcher",
        "all",
        0,
        True,
        (messages.Status, messages.FailedStatus, messages.Progress),
    ),
    Channel(
        _topics.runtime_error(_ID),
        "What went wrong, with the deepest place in the experiment's own files.",
        "simulation server, launcher",
        "all",
        1,
        False,
        (messages.RuntimeErrorReport,),
    ),
    Channel(
        _topics.lifecycle(_ID),
        "One message a transition.",
        "simulation server, launcher, gateway",
        "all",
        1,
        True,
        (messages.LifecycleMessage,),
    ),
    Channel(
        _topics.archives(_ID),
        "Where logs and results were stored, when that took longer than the final state could wait.",
        "launcher",
        "all",
        1,
        True,
        (messages.Archives,),
    ),
    Channel(
        _topics.simulation(_ID, "data"),
        "What the data transfer engine streams: a list of {topic, type}.",
        "simulation server",
        "all",
        1,
        True,
    ),
    Channel(
        _topics.simulation(_ID, "data/{datapack}"),
        "One datapack, serialised; the text `reset` after a reset.",
        "simulation server",
        "all",
        1,
        False,
    ),
    Channel(
        _topics.simulation(_ID, "time"),
        "With a data transfer engine: the simulated time in seconds, as text, every step.",
        "simulation server",
        "all",
        1,
        False,
    ),
    Channel(
        _topics.simulation(_ID, "welcome"),
        "With a data transfer engine: a greeting at the start and at the end.",
        "simulation server",
        "all",
        1,
        True,
    ),
    Channel(
        _topics.command(_ID),
        "Lifecycle commands; answered on the topic in `reply_to`.",
        "gateway; launcher, to a server on another machine",
        "simulation server, launcher",
        0,
        False,
        (messages.Command,),
    ),
    Channel(
        _topics.server_presence("{incarnation}"),
        "Whether a simulation server is connected; also its last will.",
        "simulation server",
        "launcher, gateway",
        1,
        True,
        (messages.ServerPresence,),
    ),
    Channel(
        _topics.launcher_presence("{launcher}"),
        "Whether a launcher is connected and what it can take; also its last will.",
        "launcher",
        "gateway",
        1,
        True,
        (messages.LauncherPresence,),
    ),
    Channel(
        _topics.launch("{launcher}"),
        "Launch requests; the owner's token is encrypted.",
        "gateway",
        "launcher",
        0,
        False,
        (messages.Launch,),
    ),
    Channel(
        _topics.collect("{launcher}"),
        "Requests to put the logs or results so far into the experiment.",
        "gateway",
        "launcher",
        0,
        False,
        (messages.Collect,),
    ),
    Channel(
        _topics.inquiry("{launcher}"),
        "Asks how a launcher and its machine are: for `nrp doctor`.",
        "anybody",
        "launcher",
        0,
        False,
        (messages.Inquiry,),
    ),
    Channel(
        _topics.reply("{gateway}"),
        "Answers to a gateway's requests, told apart by `correlation`.",
        "simulation server, launcher",
        "gateway",
        0,
        False,
        (messages.Reply,),
    ),
)
"""Every topic on the bus."""


def asyncapi_document() -> dict[str, Any]:
    """The document as JSON values."""
    names = [_name(channel) for channel in CHANNELS]
    used = sorted({payload for channel in CHANNELS for payload in channel.payloads}, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(payload, "validation") for payload in used], by_alias=True, ref_template="#/components/schemas/{model}"
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Neurorobotics Platform backend, message bus",
            "version": version("nrp-backend"),
            "description": "All topics may carry a prefix: `<prefix>/nrp_simulation/...`.",
        },
        "defaultContentType": "application/json",
        "channels": dict(zip(names, map(_channel, CHANNELS), strict=True)),
        "operations": {
            f"publish_{name}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": f"{channel.senders} -> {channel.receivers}",
                "bindings": {"mqtt": {"qos": channel.qos, "retain": channel.retained}},
            }
            for name, channel in zip(names, CHANNELS, strict=True)
        },
        "components": {
            "messages": {
                payload.__name__: {
                    "name": payload.__name__,
                    "payload": {"$ref": f"#/components/schemas/{payload.__name__}"},
                }
                for payload in used
            },
            "schemas": schemas["$defs"],
        },
    }


def _name(channel: Channel) -> str:
    return channel.topic.replace("{", "").replace("}", "").replace("/", "_")


def _channel(channel: Channel) -> dict[str, Any]:
    parameters = [level[1:-1] for level in channel.topic.split("/") if level.startswith("{")]
    return {
        "address": channel.topic,
        "description": channel.summary,
        "parameters": {parameter: {} for parameter in parameters},
        "messages": {
            payload.__name__: {"$ref": f"#/components/messages/{payload.__name__}"} for payload in channel.payloads
        },
    }
