"""An engine in a process of its own: what runs there, and the form in which both sides exchange datapacks.

The process is forked, so that it has what its parent had imported, and the engine with its configuration. It
initialises the engine, then carries out one request after the other, each answered.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import marshal
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, NoReturn

from nrp_common.errors import EngineFailed
from nrp_simserver import processes
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from nrp_simserver.cores.embedded.engine import Engine, engine_error
from nrp_simserver.cores.embedded.generators import seed_generators
from nrp_simserver.cores.embedded.json_values import is_json
from nrp_simserver.cores.error_place import FOUND_BY_COMPILERS, locate, own_traceback, words_of

WHERE_IT_IS = signal.SIGUSR2
"""Has the process write its Python stack into the file of faults, whatever it is doing."""


class Request(NamedTuple):
    """What the simulation's process asks of the engine's.

    Attributes:
        call: what to do: "initialize" comes first and unasked, "read" does nothing but answer.
        number: the timestep in nanoseconds of "runLoop", the seed of "seed".
        datapacks: handed to the engine before, packed, by name.
        wanted: the names of the datapacks to answer with, as they are afterwards.
    """

    call: Literal["initialize", "runLoop", "reset", "seed", "shutdown", "read"]
    number: int = 0
    datapacks: Mapping[str, Any] = {}
    wanted: tuple[str, ...] = ()


class Fault(NamedTuple):
    """An error of an engine, as it goes from its process to the simulation's.

    Attributes:
        message: what the simulation is failed with.
        file: the experiment's file at fault, "" when none is.
        line: its line, 0 when unknown.
        text: the line itself.
        offset: the column of wrong syntax, else -1.
        kind: the name of the exception's class; "" when the core itself found the fault.
        base: "SyntaxError", "NameError" or "ImportError" when it is one of these, which a compiler would have found.
        words: what the exception itself says.
        traceback: for the log.
    """

    message: str
    file: str
    line: int
    text: str = ""
    offset: int = -1
    kind: str = ""
    base: str = "Exception"
    words: str = ""
    traceback: str = ""


Answer = tuple[Fault | None, Mapping[str, Any]]
"""What went wrong, and the datapacks that were wanted, packed, by name."""


class Ends(NamedTuple):
    """What a process of an engine is given by its parent.

    Attributes:
        requests: where requests come from and answers go.
        output: descriptor for what it prints.
        errors: descriptor for what it writes to stderr.
        faults: descriptor of a file for the stack of a process that crashes or is asked where it is.
        parent: id of the process to die with, 0 when that is not the one that forks.
    """

    requests: Connection
    output: int
    errors: int
    faults: int
    parent: int


def host(engine: Engine[Any], ends: Ends) -> NoReturn:
    """Be the process of `engine`, just forked, from its initialisation until it is told to shut down."""
    status = 1
    try:
        _settle(engine, ends)
        _serve(engine, ends.requests)
        status = 0
    except (EOFError, OSError):  # the simulation is gone
        pass
    except BaseException:  # noqa: BLE001  whatever it is, this process must never go on as its parent
        traceback.print_exc()
    processes.leave(status)


def _settle(engine: Engine[Any], ends: Ends) -> None:
    os.setpgid(0, 0)  # Ctrl-C on a terminal is for the simulation; and what the engine starts can be ended with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    if ends.parent:
        processes.die_with_parent(ends.parent)
    atexit._clear()
    gc.freeze()  # what was there before the fork: its pages stay shared, and its files are not this process's to flush
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (ends.output, 1), (ends.errors, 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  open for as long as the process lives
    sys.stdout = processes.line_buffered(1)
    sys.stderr = processes.line_buffered(2)
    faulthandler.enable(ends.faults, all_threads=False)
    faulthandler.register(WHERE_IT_IS, ends.faults, all_threads=False)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # `random` does it by itself; else all engines would draw the same
    variables = engine.configuration.environment_variables()
    os.environ.update(variables)
    if "PYTHONPATH" in variables:  # which Python itself reads at its start
        sys.path[2:2] = variables["PYTHONPATH"].split(os.pathsep)


def _serve(engine: Engine[Any], requests: Connection) -> None:
    request = Request("initialize")
    while True:
        answer = _attempt(request, engine)
        _answer(requests, answer)
        if request.call == "shutdown" or (request.call == "initialize" and answer[0] is not None):
            return
        request = Request(*marshal.loads(requests.recv_bytes()))  # noqa: S302  both ends are this program


def _carry_out(request: Request, engine: Engine[Any]) -> Mapping[str, Any]:
    call, number, datapacks, wanted = request
    if datapacks:
        engine.set_datapacks({name: unpacked(content) for name, content in datapacks.items()})
    if call == "initialize":
        engine.initialize()
    elif call == "runLoop":
        engine.start_step(number)
        engine.complete_step()
    elif call == "reset":
        engine.reset()
    elif call == "seed":
        seed_generators(number)
        engine.seed(number)
    elif call == "shutdown":
        engine.shutdown()
    return {name: packed_datapack(engine.get_datapack(name)) for name in wanted}


def _attempt(request: Request, engine: Engine[Any]) -> Answer:
    try:
        return None, _carry_out(request, engine)
    except BaseException as error:  # noqa: BLE001  here only the engine raises, and the simulation's process is told
        return _fault(engine, error), {}


def _fault(engine: Engine[Any], error: BaseException) -> Fault:
    failed = engine_error(engine, error)
    if isinstance(error, EngineFailed):
        return Fault(str(failed), failed.file, failed.line)
    place = locate(error, engine.folder)
    raised = place.error
    return Fault(
        str(failed),
        failed.file,
        failed.line,
        place.text,
        place.offset,
        type(raised).__name__,
        next((base.__name__ for base in FOUND_BY_COMPILERS if isinstance(raised, base)), "Exception"),
        words_of(raised),
        own_traceback(error, engine.folder),
    )


def _answer(requests: Connection, answer: Answer) -> None:
    fault, datapacks = answer
    plain: Any = (fault and tuple(fault), datapacks)  # marshal takes no subclasses
    requests.send_bytes(marshal.dumps(plain))


# -- datapacks on their way: JSON values are what marshal takes as they are, a message is (type, bytes) --------------


def packed(content: Any) -> Any:
    """What a function or a client sends to an engine: JSON values or a message."""
    return content if is_json(content) else (content.DESCRIPTOR.full_name, content.SerializePartialToString())


def unpacked(content: Any) -> Any:
    """What was packed.

    Raises:
        EngineFailed: it is a message of a type that this process does not know.
    """
    if type(content) is not tuple:
        return content
    name, serialized = content
    return _message_type(name).FromString(serialized)


def packed_datapack(datapack: DataPack) -> Any:
    """The content of an engine's datapack."""
    if isinstance(datapack, JsonDataPack):
        return datapack.content()
    message: Any = datapack
    return message.type, message.serialized()


def unpacked_datapack(name: str, engine_name: str, content: Any) -> DataPack:
    """The datapack whose content was packed.

    Raises:
        EngineFailed: it is a message of a type that this process does not know.
    """
    if type(content) is not tuple:
        return JsonDataPack.holding(name, engine_name, content)
    from nrp_simserver.cores.embedded.protobuf_datapacks import datapack_class  # others need not wait for protobuf

    message_name, serialized = content
    return datapack_class(_message_type(message_name)).holding(name, engine_name, serialized)


def _message_type(name: str) -> Any:
    from nrp_simserver.cores.embedded.protobuf_datapacks import message_type  # others need not wait for protobuf

    found = message_type(name)
    if found is None:
        raise EngineFailed(
            f"messages of type {name} are known to one process only: put the .proto file that defines them into the"
            " experiment's folder"
        )
    return found
