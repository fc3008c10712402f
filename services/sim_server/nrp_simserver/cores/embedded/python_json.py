"""python_json: an engine that is a Python script of the experiment, with datapacks of JSON data."""

from __future__ import annotations

from typing import Any

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from nrp_simserver.cores.embedded.json_values import from_engine, is_json
from nrp_simserver.cores.embedded.python_engine import PythonEngine, PythonScript


class EngineScript(PythonScript):
    """What the file of a python_json engine subclasses as `Script`."""

    def _registerDataPack(self, datapack_name: str) -> None:  # noqa: N802  nrp-core's name
        """Announce a datapack of this engine. Its data is None until it is set.

        Raises:
            ValueError: it was registered before.
        """
        if datapack_name in self._datapacks:
            raise ValueError(f"datapack {datapack_name!r} is registered already")
        self._datapacks[datapack_name] = None

    def _setDataPack(self, datapack_name: str, data: Any) -> None:  # noqa: N802  nrp-core's name
        """Set the data of a datapack: whatever has a JSON form."""
        self._datapacks[datapack_name] = data


class PythonJsonEngine(PythonEngine):
    """Runs the class `Script` of the engine's file, whose datapacks have a JSON form."""

    engine_type = "python_json"
    script_class = EngineScript

    def get_datapack(self, name: str) -> DataPack:
        """What the script holds under this name, at this moment."""
        value = self._held(name)
        try:
            return JsonDataPack.holding(name, self.name, from_engine(value))
        except (TypeError, RecursionError) as error:
            raise EngineFailed(
                f"engine {self.name!r}: datapack {name!r} cannot be sent: {error}", file=self.configuration.script
            ) from error

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Hand data to the script, which keeps it until it is replaced."""
        for name, content in datapacks.items():
            if not is_json(content):
                raise EngineFailed(
                    f"engine {self.name!r} takes JSON data; datapack {name!r} is a protobuf message,"
                    f" {type(content).__name__}"
                )
        super().set_datapacks(datapacks)
