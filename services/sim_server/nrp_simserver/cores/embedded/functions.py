"""The functions of an experiment that connect its engines, and the decorators that declare them.

A decorated function becomes a `Function`. Loading a file of the experiment yields the one it defines:

    @EngineDataPack(keyword="camera", id=DataPackIdentifier("camera", "robot"))
    @TransceiverFunction("brain")
    def look(camera): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.embedded.callables import line_of, misfit, place
from nrp_simserver.cores.embedded.datapacks import DataPackIdentifier
from nrp_simserver.cores.error_place import locate

Kind = Literal["transceiver", "preprocessing", "status"]


@dataclass(frozen=True)
class Input:
    """One argument of a function.

    Attributes:
        keyword: the argument's name.
        source: what is passed: one datapack, several by name, the simulated time in ns, or the iteration's number.
        datapacks: which datapacks, for the first two.
        preprocessed: whether they come from preprocessing functions, so that no engine is asked for them.
    """

    keyword: str
    source: Literal["datapack", "datapacks", "time", "iteration"]
    datapacks: tuple[DataPackIdentifier, ...] = ()
    preprocessed: bool = False


@dataclass(eq=False)
class Declared:
    """A function of the experiment that a decorator declared, of whatever kind.

    Attributes:
        call: the function as written.
        name: how others call it.
        file: the file it is in, relative to the experiment's folder.
    """

    call: Callable[..., Any]
    name: str = field(default="", kw_only=True)
    file: str = field(default="", kw_only=True)

    what: ClassVar[str] = "function"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as written."""
        return self.call(*args, **kwargs)


@dataclass(eq=False)
class Function(Declared):
    """A function that runs after the steps of engines.

    Attributes:
        kind: when it runs.
        engine: the engine it is linked to: it runs when that engine's step has ended. "" for the status function.
        inputs: its arguments.
    """

    kind: Kind
    engine: str
    inputs: list[Input] = field(default_factory=list)

    def requested(self) -> list[DataPackIdentifier]:
        """The datapacks that engines have to be asked for."""
        return [datapack for given in self.inputs if not given.preprocessed for datapack in given.datapacks]

    def misfit(self) -> str:
        """Why it cannot be called with its inputs, "" when it can."""
        return misfit(self.call, **{given.keyword: None for given in self.inputs})


_declared: list[Declared] = []
"""The functions declared since `start_declarations`, in order. Files are loaded one at a time, in one thread."""


def start_declarations() -> None:
    """Forget what earlier files declared."""
    _declared.clear()


def declarations() -> list[Declared]:
    """What was declared since `start_declarations`."""
    return list(_declared)


DeclaredT = TypeVar("DeclaredT", bound=Declared)


def declare(declared: DeclaredT, decorator: str) -> DeclaredT:
    """Note what `decorator` declares.

    Raises:
        TypeError: what it decorates is no plain function.
    """
    if isinstance(declared.call, Declared) or not callable(declared.call):
        raise TypeError(f"{decorator} decorates a plain function and goes below all other decorators")
    _declared.append(declared)
    return declared


def _declare(kind: Kind, engine: str, call: Any) -> Function:
    return declare(Function(call, kind, engine), _DECORATORS[kind])


_DECORATORS = {
    "transceiver": "@TransceiverFunction",
    "preprocessing": "@PreprocessingFunction",
    "status": "@StatusFunction",
}


def TransceiverFunction(engine: str) -> Callable[[Any], Function]:  # noqa: N802  nrp-core's name
    """Declare a function that runs whenever `engine` has ended a step; it returns a list of datapacks for engines."""
    expect_text("TransceiverFunction", "the engine's name", engine)
    return lambda call: _declare("transceiver", engine, call)


def PreprocessingFunction(engine: str) -> Callable[[Any], Function]:  # noqa: N802  nrp-core's name
    """Declare a function that prepares datapacks of `engine` for other functions, before any of those run.

    What it returns is not sent to the engine: it is read with `PreprocessedDataPack`.
    """
    expect_text("PreprocessingFunction", "the engine's name", engine)
    return lambda call: _declare("preprocessing", engine, call)


def StatusFunction() -> Callable[[Any], Function]:  # noqa: N802  nrp-core's name
    """Declare the function that runs last in every iteration and returns (done, [JsonRawData, ...])."""
    return lambda call: _declare("status", "", call)


def EngineDataPack(  # noqa: N802  nrp-core's name
    keyword: str,
    id: DataPackIdentifier,  # noqa: A002  nrp-core's name
    isPreprocessed: bool = False,  # noqa: N803  nrp-core's name
) -> Callable[[Any], Function]:
    """Pass a datapack of an engine as the argument `keyword`."""
    if not isinstance(id, DataPackIdentifier):
        raise TypeError(f"EngineDataPack: id has to be a DataPackIdentifier, it is {type(id).__name__}")
    return _input(Input(keyword, "datapack", (id,), isPreprocessed))


def PreprocessedDataPack(keyword: str, id: DataPackIdentifier) -> Callable[[Any], Function]:  # noqa: A002, N802
    """Pass what a preprocessing function last returned under this name as the argument `keyword`."""
    return EngineDataPack(keyword, id, isPreprocessed=True)


def EngineDataPacks(  # noqa: N802  nrp-core's name
    keyword: str,
    datapackNames: Sequence[str],  # noqa: N803  nrp-core's name
    engineName: str,  # noqa: N803  nrp-core's name
    isPreprocessed: bool = False,  # noqa: N803  nrp-core's name
) -> Callable[[Any], Function]:
    """Pass several datapacks of one engine as the argument `keyword`: a dict by datapack name."""
    if isinstance(datapackNames, str):
        raise TypeError("EngineDataPacks: datapackNames has to be a list of names, it is one text")
    datapacks = tuple(DataPackIdentifier(name, engineName) for name in datapackNames)
    return _input(Input(keyword, "datapacks", datapacks, isPreprocessed))


def SimulationTime(keyword: str) -> Callable[[Any], Function]:  # noqa: N802  nrp-core's name
    """Pass the simulated time in nanoseconds as the argument `keyword`."""
    return _input(Input(keyword, "time"))


def SimulationIteration(keyword: str) -> Callable[[Any], Function]:  # noqa: N802  nrp-core's name
    """Pass the iteration's number, counted from 0, as the argument `keyword`."""
    return _input(Input(keyword, "iteration"))


def _input(given: Input) -> Callable[[Any], Function]:
    expect_text("a decorator", "keyword", given.keyword)

    def add(function: Any) -> Function:
        if not isinstance(function, Function):
            raise TypeError(
                "decorators of inputs go above @TransceiverFunction, @PreprocessingFunction or @StatusFunction"
            )
        if any(other.keyword == given.keyword for other in function.inputs):
            raise ValueError(f"two inputs have the keyword {given.keyword!r}")
        function.inputs.append(given)
        return function

    return add


def expect_text(decorator: str, what: str, value: object) -> None:
    """Raise TypeError when what a decorator was given is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{decorator}: {what} has to be text, it is {type(value).__name__}")


def misuse(function: Declared, what: str) -> FunctionFailed:
    """The error of a function that is not what a function has to be."""
    line = line_of(function.call, function.file)
    return FunctionFailed(
        f"{place(function.file, line)}: {function.what} {function.name!r} {what}", file=function.file, line=line
    )


def function_error(function: Declared, error: BaseException, folder: Path) -> FunctionFailed:
    """The error of a function that raised `error`."""
    if isinstance(error, FunctionFailed):
        return error
    found = locate(error, folder)
    if not found.file:
        return FunctionFailed(f"{function.what} {function.name!r}: {found.describe(function.file)}", file=function.file)
    return FunctionFailed(found.describe(), file=found.file, line=found.line)
