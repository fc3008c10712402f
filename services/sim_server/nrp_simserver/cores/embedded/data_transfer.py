"""datatransfer_grpc_engine: publishes datapacks while the simulation runs, and records them in files."""

from __future__ import annotations

import importlib
import json
import logging
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nrp_common.errors import EngineFailed
from nrp_simserver.cores import DataPublisher
from nrp_simserver.cores.configuration import NANOSECONDS, DataTransferConfiguration, Dump
from nrp_simserver.cores.embedded import record_lines
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.json_values import is_json, to_text

if TYPE_CHECKING:
    from google.protobuf.message import Message

logger = logging.getLogger(__name__)

_QOS = 1


class DataTransferEngine(Engine[DataTransferConfiguration]):
    """Hands on the datapacks that functions return to it and that are listed in its `dumps`.

    `network`: published on "data/<datapack>", JSON data as text, a protobuf message serialised, by itself or, with
    `streamDataPackMessage`, in an EngineGrpc.DataPackMessage; "data" lists these topics, "time" has the simulated time
    in seconds after every step, "welcome" says that the simulation is there. `file`: lines as `record_lines` makes them
    in <dataDirectory>/<time of the launch>/<datapack>-<number of resets>.data.
    """

    engine_type = "datatransfer_grpc_engine"
    runs_here_only = True  # where the publisher is

    def __init__(self, configuration: DataTransferConfiguration, folder: Path, publisher: DataPublisher | None) -> None:
        super().__init__(configuration, folder, publisher)
        self._dumps: dict[str, Dump] = {dump.name: dump for dump in configuration.dumps}
        self._types = {dump.name: "" for dump in configuration.dumps if dump.network}
        self._time_ns = 0
        self._resets = 0
        self._files: dict[str, BinaryIO] = {}
        prefix = f"{configuration.prefix}/" if configuration.prefix else ""
        self._topics = f"{prefix}nrp_simulation/{configuration.simulation_id}/data"

    def initialize(self) -> None:
        """Make the folder for the files, announce what will be published."""
        directory = self.folder / self.configuration.directory
        self._directory = directory / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")
        if any(dump.file for dump in self._dumps.values()):
            self._directory.mkdir(parents=True)
        if self.publisher is None and self._types:
            logger.warning("engine %s: nobody publishes what it streams", self.name)
        self._publish("welcome", "NRP-core is connected!", retained=True)
        self._publish_topics()

    def start_step(self, timestep_ns: int) -> None:
        """Advance the time and tell it."""
        self._time_ns += timestep_ns
        self._publish("time", self._seconds())

    def get_datapack(self, name: str) -> DataPack:
        """Nothing can be asked of this engine.

        Raises:
            EngineFailed: always.
        """
        raise EngineFailed(f"engine {self.name!r} only takes datapacks: no function can ask it for {name!r}")

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Publish and record those that are listed in `dumps`."""
        for name, content in datapacks.items():
            dump = self._dumps.get(name)
            if dump is None:
                continue
            if dump.network:
                self._stream(name, content)
            if dump.file:
                self._record(name, content)

    def reset(self) -> None:
        """Restart the time; from here on other files are written, and listeners are told."""
        self._close_files()
        self._time_ns = 0
        self._resets += 1
        for name in self._types:
            self._publish(f"data/{name}", "reset")

    def shutdown(self) -> None:
        """Say good-bye."""
        self._close_files()
        self._publish("welcome", "Bye! NRP-core is disconnecting!", retained=True)

    def _stream(self, name: str, content: Any) -> None:
        kind = JsonDataPack.type if is_json(content) else content.DESCRIPTOR.full_name
        if self._types[name] != kind:
            self._types[name] = kind
            self._publish_topics()
        if self.publisher is not None:
            payload = to_text(content).encode() if is_json(content) else self._serialised(name, content)
            self.publisher(f"data/{name}", payload, _QOS, False)

    def _serialised(self, name: str, message: Message) -> bytes:
        if not self.configuration.stream_datapack_message:
            return message.SerializePartialToString()
        wrapped = importlib.import_module("nrp_protobuf.engine_grpc_pb2").DataPackMessage()
        wrapped.dataPackId.dataPackName = name
        wrapped.dataPackId.dataPackType = message.DESCRIPTOR.full_name
        wrapped.dataPackId.engineName = self.name
        wrapped.data.Pack(message)
        serialised: bytes = wrapped.SerializeToString()
        return serialised

    def _record(self, name: str, content: Any) -> None:
        try:
            text = record_lines.lines(self._seconds(), content)
        except ValueError as error:
            raise EngineFailed(f"engine {self.name!r}: datapack {name!r} cannot be recorded: {error}") from error
        file = self._files.get(name)
        if file is None:
            # Kept open, as opening one takes longer than writing a line.
            file = self._files[name] = (self._directory / f"{name}-{self._resets}.data").open("ab")
            file.write(record_lines.header(content).encode())
        file.write(text.encode())
        file.flush()  # whatever ends this process, the line is there

    def _close_files(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _seconds(self) -> str:
        return f"{(Decimal(self._time_ns) / NANOSECONDS).normalize():f}"

    def _publish_topics(self) -> None:
        topics = [{"topic": f"{self._topics}/{name}", "type": kind} for name, kind in self._types.items()]
        self._publish("data", json.dumps(topics), retained=True)

    def _publish(self, topic: str, text: str, *, retained: bool = False) -> None:
        if self.publisher is not None:
            self.publisher(topic, text.encode(), _QOS, retained)
