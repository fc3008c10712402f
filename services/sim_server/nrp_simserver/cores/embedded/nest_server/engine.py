"""The engine: datapacks and steps become sources that a NEST Server executes."""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
from pathlib import Path
from typing import Any, NoReturn

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.configuration import NANOSECONDS, NestServerConfiguration
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.engine_host import Fault
from nrp_simserver.cores.embedded.engine_process import failure
from nrp_simserver.cores.embedded.json_values import from_engine
from nrp_simserver.cores.embedded.nest_datapacks import check_parameters, statuses, unregistered
from nrp_simserver.cores.embedded.nest_server.connection import Connection, NestServerLost, NestServerRefused
from nrp_simserver.cores.embedded.nest_server.own_server import OwnNestServer

NANOSECONDS_PER_MILLISECOND = 1_000_000

DEFAULT_PORT = 52425
"""Where a NEST Server listens that nobody told where to."""

NEEDED = {"nest": "nest-simulator", "flask_cors": "flask-cors", "RestrictedPython": "restrictedpython"}
"""The modules that a NEST Server imports, and the packages that have them."""

INSIDE = Path(__file__).with_name("inside.py")
MODULE = "nrp_inside"
"""What the module made of that file is called in the server."""

ANSWER = "nrp_answer"
"""The variable in which sources leave their answer."""


class NestServerEngine(Engine[NestServerConfiguration]):
    """Runs the network that the engine's init file builds in a NEST Server: its own, or one that is there already.

    A step takes one request, which also brings back the status of the datapacks that were asked for after the step
    before; other engines step meanwhile.
    """

    engine_type = "nest_server"
    runs_elsewhere = True

    _seed = 0

    @classmethod
    def missing(cls, configuration: NestServerConfiguration) -> str:
        """What a NEST Server of its own lacks to run."""
        lacking = [] if configuration.host else [name for module, name in NEEDED.items() if not _is_installed(module)]
        return f"{', '.join(lacking)}: pip install 'nrp-backend[nest]'" if lacking else ""

    def initialize(self) -> None:
        """Start a NEST Server or connect to one, and run the init file there in an empty kernel.

        Raises:
            EngineFailed: there is none, it does not do what is asked of it, or the init file failed.
        """
        self._own: OwnNestServer | None = None
        self._is_stepping = False
        self._asked: set[str] = set()  # since the last step began
        self._read: dict[str, Any] = {}  # status of datapacks as it is now
        self._sizes: dict[str, int] = {}
        self._connection = self._connect()
        try:
            self._build()
        except BaseException:
            self.shutdown()
            raise

    def _connect(self) -> Connection:
        configuration = self.configuration
        timeout_s = configuration.command_timeout_ns / NANOSECONDS
        variables = configuration.environment_variables()
        if configuration.host:
            token = {**os.environ, **variables}.get("NEST_SERVER_ACCESS_TOKEN", "")
            return Connection(configuration.host, configuration.port or DEFAULT_PORT, token, timeout_s)
        try:
            self._own = OwnNestServer(self.folder, variables, configuration.port)
        except NestServerLost as error:
            raise EngineFailed(f"engine {self.name!r}: {error}") from None
        return Connection("127.0.0.1", self._own.port, self._own.token, timeout_s)

    def _build(self) -> None:
        script = self.configuration.script
        settings = {"local_num_threads": 1} if self._own is not None else {}  # as in process
        seed = self.configuration.seed or self._seed
        if seed:
            settings["rng_seed"] = seed
        init_file = (self.folder / script).read_text(encoding="utf-8")
        arguments = ", ".join(map(repr, (init_file, script, f"{self.folder}{os.sep}", settings)))
        # No line may begin with "import" or "from": NEST Server removes those.
        self._check_freedom()
        self._begin(
            f"nrp_inside = __import__('types').ModuleType({MODULE!r})\n"
            f"__import__('sys').modules[{MODULE!r}] = nrp_inside\n"
            f"exec({INSIDE.read_text(encoding='utf-8')!r}, nrp_inside.__dict__)\n"
            f"{ANSWER} = nrp_inside.build({arguments})\n"
        )
        self._sizes = self._finish()
        self._read = {}

    def _check_freedom(self) -> None:
        """Refuse a server that does not execute any Python: it would say no more than that there was an error."""
        try:
            self._connection.execute("compile", ANSWER)
        except NestServerLost as error:
            self._give_up(error)
        except NestServerRefused as error:
            if "'compile' is not defined" in str(error):
                how = "start it with NEST_SERVER_DISABLE_RESTRICTION=true"
                error = NestServerRefused(f"{self._connection.server} restricts what may be executed: {how}")
            self._give_up(error)

    def start_step(self, timestep_ns: int) -> None:
        """Have the server simulate the network for that long."""
        self.complete_step()
        wanted, self._asked, self._read = sorted(self._asked), set(), {}
        self._begin_call("step", timestep_ns / NANOSECONDS_PER_MILLISECOND, wanted)
        self._is_stepping = True

    def complete_step(self) -> None:
        """Wait until the server has simulated the step begun last."""
        if self._is_stepping:
            self._is_stepping = False
            self._read = self._finish()

    def get_datapack(self, name: str) -> DataPack:
        """The present status of the nodes."""
        self.complete_step()
        size = self._size(name)
        self._asked.add(name)
        if name not in self._read:
            self._begin_call("read", name)
            self._read[name] = self._finish()
        return JsonDataPack.holding(name, self.name, from_engine(statuses(self._read[name], size)))

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Set the nodes' parameters.

        Raises:
            EngineFailed: there are no such nodes, or the data is neither a dict nor a list of one dict a node, or not
                what they take.
        """
        self.complete_step()
        for name, content in datapacks.items():
            check_parameters(self.name, name, content, self._size(name))
        self._read = {}
        self._begin_call("set_parameters", datapacks)
        refused = self._finish()
        if refused is not None:
            name, why = refused
            raise EngineFailed(f"engine {self.name!r}: datapack {name!r} cannot be set: {why}")

    def reset(self) -> None:
        """Build the network anew."""
        self.complete_step()
        self._asked = set()
        self._build()

    def seed(self, seed: int) -> None:
        """Have the network that is built next use that seed, unless the configuration gives one."""
        self._seed = seed

    def shutdown(self) -> None:
        """End the server when it is the engine's own, else leave the network in it."""
        own, self._own = self._own, None
        self._connection.close()
        if own is not None:
            own.end()

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            raise unregistered(self.configuration, name, self._sizes)
        return self._sizes[name]

    # -- how a request is made -----------------------------------------------------------------------------------------

    def _begin_call(self, function: str, *arguments: Any) -> None:
        self._begin(
            f"nrp_inside = __import__('sys').modules.get({MODULE!r})\n"
            f"{ANSWER} = nrp_inside and nrp_inside.{function}({', '.join(map(repr, arguments))})"
        )

    def _begin(self, source: str) -> None:
        try:
            self._connection.begin(source, ANSWER)
        except NestServerLost as error:
            self._give_up(error)

    def _finish(self) -> Any:
        """The result of the request that was begun last."""
        try:
            executed = self._connection.finish()
        except (NestServerLost, NestServerRefused) as error:
            self._give_up(error)
        if executed.printed:
            print(executed.printed)
        if executed.data is None:
            self._give_up(NestServerRefused(f"{self._connection.server} has lost the network: it was started anew"))
        if not isinstance(executed.data, str):
            self._give_up(NestServerRefused(f"{self._connection.server} answers what nobody asked: {executed.data}"))
        answer = json.loads(executed.data)
        if "failure" in answer:
            raise self._failure(**answer["failure"])
        return answer["result"]

    def _give_up(self, error: Exception) -> NoReturn:
        fate = f"; it {self._own.fate()}" if self._own is not None and isinstance(error, NestServerLost) else ""
        raise EngineFailed(f"engine {self.name!r}: {error}{fate}") from None

    def _failure(self, kind: str, words: str, file: str, line: int, text: str, **rest: Any) -> EngineFailed:
        """The error for what was raised in the server."""
        where = f"{kind} in {file} (Line {line})" if file else f"engine {self.name!r}: {kind}"
        text = (
            text or linecache.getline(str(self.folder / file), line).strip()
        )  # it may not have the experiment's files
        return failure(Fault(f"{where}: {words}", file, line, text, kind=kind, words=words, **rest))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
