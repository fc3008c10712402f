"""How datapacks are written down: lines of text that begin with the simulated time."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from nrp_simserver.cores.embedded.json_values import is_json, to_text

if TYPE_CHECKING:
    from google.protobuf.message import Message


_TABLE = 2
"""Dimensions of an array that is written as rows; one of fewer or more is a single row."""


def header(content: Any) -> str:
    """What a file begins with before the first lines of its datapack: the names of a message's fields, or nothing."""
    if is_json(content) or content.DESCRIPTOR.full_name in _PLAIN:
        return ""
    return _row(["sim_time", *(field.name for field in content.DESCRIPTOR.fields)])


def lines(time: str, content: Any) -> str:
    """The lines of one datapack, each with its end.

    Args:
        time: the simulated time in seconds.
        content: JSON values, which become JSON text, or a message: `Dump.String` is written as its text,
            `Dump.ArrayFloat` with the number of the row before each row, any other one as a row of its fields' values.

    Raises:
        ValueError: the numbers of a `Dump.ArrayFloat` do not fill its rows.
    """
    if is_json(content):
        return f"{time},{to_text(content)}\n"
    write = _PLAIN.get(content.DESCRIPTOR.full_name, _fields)
    return write(time, content)


def _string(time: str, message: Any) -> str:
    return f"{time},{message.string_stream}\n"


def _array(time: str, message: Any) -> str:
    import numpy as np  # 0.1 s, for those alone that record arrays

    # Their shortest decimal form, which a float of 32 bits taken into Python has no more.
    numbers = np.array(message.float_stream, dtype=np.float32).astype(str).tolist()
    numbers = [number.removesuffix(".0") for number in numbers]
    rows, columns = message.dims if len(message.dims) == _TABLE else (1, len(numbers))
    if rows * columns != len(numbers):
        raise ValueError(f"{len(numbers)} numbers do not fill {rows} rows of {columns}")
    return "".join(f"{time},{row},{','.join(numbers[row * columns : (row + 1) * columns])}\n" for row in range(rows))


def _fields(time: str, message: Message) -> str:
    from google.protobuf.json_format import MessageToDict  # there is a message, so protobuf is imported

    given = MessageToDict(message, preserving_proto_field_name=True)
    return _row([time, *(_cell(message, field.name, given) for field in message.DESCRIPTOR.fields)])


def _cell(message: Message, field: str, given: dict[str, Any]) -> str:
    """The value of a field; what consists of several values as JSON, nothing when it is not set, bytes in base 64."""
    value = given.get(field)
    if value is None:
        value = getattr(message, field)  # the default, which is left out of `given`
        if not isinstance(value, bool | int | float | str):
            return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _row(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


_PLAIN = {"Dump.String": _string, "Dump.ArrayFloat": _array}
