"""JSON values as they cross between engines, functions and clients.

A value is converted, and thereby copied, whenever it passes from one owner to another, so that nobody can change what
another one holds. Converted trees consist of dict (text keys, sorted), list, str, int, float, bool and None.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_ATOMS = frozenset({str, int, bool, type(None)})
"""Types whose values are the same on both sides; found by one look-up, which keeps crossing cheap."""

_SCALARS = _ATOMS | {float}

_NUMBERS = _SCALARS - {str}

_FLOATS = frozenset({float})

_PLAIN = frozenset({str, int, float, bool, list})

_TREES = _ATOMS | {float, list, dict}

_NUMPY_NUMBERS = "iu"
"""Kinds of numpy arrays that are converted whatever their size; of the floats ("f") only 32 and 64 bits."""

_UNSUPPORTED = "Attempted to convert unsupported python type into nlohmann::json."
_NOT_UTF8 = "basic_string: construction from null is not valid"


def is_json(value: Any) -> bool:
    """Whether data is a converted tree, not a message of another kind. Looks at the outermost value alone."""
    return type(value) in _TREES


def copied(value: Any) -> Any:
    """A deep copy of a converted tree."""
    if type(value) is dict:
        return {key: item if type(item) in _SCALARS else copied(item) for key, item in value.items()}
    if type(value) is list:
        return value.copy() if _SCALARS.issuperset(map(type, value)) else [copied(item) for item in value]
    return value


def from_function(value: Any) -> Any:
    """Convert what a function puts into a datapack, accepting and refusing what nrp-core 1.4 does, in its words.

    Integers may have any size. NaN and infinities stay what they are until they are delivered.

    Raises:
        TypeError: the value has no JSON form. Of numpy, 1-D arrays of integers and of 32 or 64 bit floats do.
        RuntimeError: a key is not text, or a text is not valid Unicode.
    """
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind in _ATOMS or kind is float:
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise RuntimeError(_NOT_UTF8)
        return {_text(key): from_function(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return list(value) if _NUMBERS.issuperset(map(type, value)) else [from_function(item) for item in value]
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        return _array(value)
    plain = _plain_subclass(value)
    if plain is None:
        raise TypeError(_UNSUPPORTED)
    return _text(plain) if type(plain) is str else plain


def from_engine(value: Any) -> Any:
    """Convert what an engine has set as a datapack: the rules of Python's json module, and numpy's arrays and numbers.

    Keys become text as json makes them; NaN and infinities, which JSON does not know, become None.

    Raises:
        TypeError: the value, or a part of it, has no JSON form.
    """
    kind = type(value)
    if kind is dict:
        converted = {}
        in_order = True
        previous = ""
        for key, item in value.items():
            if type(key) is not str:
                key = _key(key)  # noqa: PLW2901
            if key < previous:
                in_order = False
            previous = key
            converted[key] = item if type(item) in _ATOMS else from_engine(item)
        return converted if in_order else {key: converted[key] for key in sorted(converted)}
    if kind is list or kind is tuple:
        if _is_ready(value):
            return list(value)
        return [item if type(item) in _ATOMS else from_engine(item) for item in value]
    if kind is float:
        return value if value - value == 0.0 else None
    return value if kind in _ATOMS else from_engine(_plain(value))


def delivered(value: Any) -> Any:
    """Convert a datapack's content on its way to an engine: as `from_function`, with None for NaN and infinities."""
    kind = type(value)
    if kind is dict:
        converted = {}
        in_order = True
        previous = ""
        for key, item in value.items():
            if type(key) is not str:
                raise RuntimeError(_NOT_UTF8)
            if key < previous:
                in_order = False
            previous = key
            converted[key] = item if type(item) in _ATOMS else delivered(item)
        return converted if in_order else {key: converted[key] for key in sorted(converted)}
    if kind is list:
        if _is_ready(value):
            return value.copy()
        return [item if type(item) in _ATOMS else delivered(item) for item in value]
    if kind is float:
        return value if value - value == 0.0 else None
    return value if kind in _ATOMS else delivered(from_function(value))


def _is_ready(values: list[Any] | tuple[Any, ...]) -> bool:
    """Whether all are finite floats, as in long lists: these are then converted at once."""
    return _FLOATS.issuperset(map(type, values)) and math.isfinite(sum(values))


def to_text(value: Any) -> str:
    """The JSON text of a value, in nlohmann::json's compact form: sorted keys, null for NaN and infinities."""
    return _encode(value)


def _encode(value: Any) -> str:
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string_text(key)}:{_encode(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_encode, value)) + "]"
    return _string_text(value)


_string_text: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False).encode


def _float_text(value: float) -> str:
    if value - value != 0.0:
        return "null"
    text = repr(float(value))
    if 1e15 <= abs(value) < 1e16:
        # nlohmann::json changes to an exponent one digit earlier than Python does.
        sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
        digits = digits.removesuffix(".0")
        fraction = digits[1:].rstrip("0")
        return f"{sign}{digits[0]}{'.' if fraction else ''}{fraction}e+15"
    return text


def _key(key: Any) -> str:
    """A key as Python's json module writes it."""
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int | float):
        return repr(_plain_subclass(key))
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RuntimeError(_NOT_UTF8) from None
    return text


def _plain(value: Any) -> Any:
    """The plain value of what is no JSON type itself but stands for one."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    is_numpy = type(value).__module__ == "numpy" and hasattr(value, "tolist")
    plain = value.tolist() if is_numpy else _plain_subclass(value)
    if type(plain) not in _PLAIN:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return plain


def _plain_subclass(value: Any) -> Any:
    """The plain value of an instance of a subclass, such as numpy.float64 of float or an IntEnum of int; else None."""
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    return None


def _array(array: Any) -> list[Any]:
    if array.ndim != 1:
        raise TypeError(f"Conversion of numpy array with nd = {array.ndim} not implemented")
    dtype = array.dtype
    if dtype.kind not in _NUMPY_NUMBERS and dtype.str not in ("<f4", "<f8"):
        raise TypeError(f"Conversion of numpy dtype '{dtype if dtype.kind != 'U' else dtype.str}' not implemented")
    values: list[Any] = array.tolist()
    return values
