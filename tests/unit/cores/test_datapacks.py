"""JsonDataPack and its data, as functions use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nrp_simserver.cores.embedded.datapacks import (
    DataPackIdentifier,
    EmptyDataPack,
    JsonDataPack,
    JsonRawData,
    NlohmannJson,
)


def data(value: Any = None) -> NlohmannJson:
    pack = JsonDataPack("p", "e")
    pack.data = value
    return pack.data


def test_data_starts_as_null() -> None:
    fresh = JsonDataPack("p", "e").data
    assert (fresh.json_type(), len(fresh), fresh.keys(), str(fresh)) == ("null", 0, [], "null")


def test_setting_a_key_makes_an_object() -> None:
    made = data()
    made["b"] = 1
    made["a"] = "x"
    assert (made.json_type(), len(made), made.keys(), str(made)) == ("object", 2, ["a", "b"], '{"a":"x","b":1}')


def test_appending_makes_an_array() -> None:
    made = data()
    made.append(1)
    made.append([2])
    assert (made.json_type(), len(made), made.keys(), str(made)) == ("array", 2, [], "[1,[2]]")
    assert made[0] == 1
    assert list(made) == [1, [2]]


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (1, 1),
        (2.5, 2.5),
        ("text", "text"),
        (True, True),
        (None, None),
        ([1, [2]], [1, [2]]),
        ((1, (2,)), [1, [2]]),
        ({"k": {"l": 1}}, {"k": {"l": 1}}),
        (np.array([1, 2]), [1, 2]),
        (np.array([1.5, 2.5], dtype=np.float32), [1.5, 2.5]),
        ({"array": np.arange(6)[::2]}, {"array": [0, 2, 4]}),
        (2**100, 2**100),
        (np.float64(1.5), 1.5),
    ],
)
def test_what_has_a_json_form_is_taken(value: object, held: object) -> None:
    made = data()
    made["k"] = value
    assert made["k"] == held
    assert type(made["k"]) is type(held)


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", 1j, object(), [object()], np.zeros((2, 2)), np.array(3), np.array(["a"]), np.int64(1)],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_form_is_a_type_error_and_changes_nothing(value: object) -> None:
    made = data({"k": 1})
    with pytest.raises(TypeError):
        made["k"] = value
    assert str(made) == '{"k":1}'


def test_keys_have_to_be_text() -> None:
    with pytest.raises(RuntimeError):
        data()["k"] = {1: "x"}


def test_nested_data_can_be_written() -> None:
    made = data({"nested": {"list": [1]}})
    made["nested"]["list"].append(2)
    made["nested"]["more"] = True
    assert str(made) == '{"nested":{"list":[1,2],"more":true}}'


def test_what_was_put_in_is_a_copy() -> None:
    value = [1]
    made = data()
    made["k"] = value
    value.append(2)
    assert made["k"] == [1]


def test_data_can_be_put_into_other_data() -> None:
    made, inner = data(), data({"x": 1})
    made["inner"] = inner
    inner["x"] = 2
    assert made["inner"] == {"x": 1}


@pytest.mark.parametrize(
    ("value", "key", "error"),
    [
        ({"k": 1}, "other", KeyError),
        ({"k": 1}, 0, TypeError),
        ([1], 5, IndexError),
        ([1], "k", TypeError),
        (None, "k", TypeError),
        (5, 0, TypeError),
    ],
)
def test_reading_what_is_not_there_is_an_error(value: object, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        data(value)[key]


@pytest.mark.parametrize(
    ("value", "key", "error"), [({"k": 1}, 0, TypeError), ([1], "k", TypeError), ([1], 1, IndexError)]
)
def test_an_array_has_places_and_an_object_has_keys(value: object, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        data(value)[key] = 1


def test_only_arrays_are_appended_to() -> None:
    with pytest.raises(TypeError):
        data({"k": 1}).append(1)


@pytest.mark.parametrize(
    ("value", "json_type"), [("x", "string"), (True, "boolean"), (1, "number"), (1.5, "number"), ({}, "object")]
)
def test_json_type(value: object, json_type: str) -> None:
    assert data(value).json_type() == json_type


def test_what_a_function_gets_is_changed_for_itself_only() -> None:
    original = JsonDataPack.holding("p", "e", {"k": 1, "nested": [1]})
    first, second = original.view(updated=True), original.view(updated=True)
    first.data["k"] = 2
    first.data["nested"].append(2)
    assert second.data["k"] == original.data["k"] == 1
    assert second.data["nested"] == [1]


def test_data_is_looked_into_like_a_dict_or_a_list() -> None:
    assert "k" in data({"k": 1})
    assert list(data({"b": 1, "a": 2})) == ["a", "b"]
    assert 2 in data([1, 2])
    assert 1 not in data(1)
    assert data({"k": [1]}) == {"k": [1]}
    assert data([1]) == data([1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": [1, None, True], "a": "é\n"}, '{"a":"é\\n","b":[1,null,true]}'),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (5e-324, "5e-324"),
        (123456789012345.0, "123456789012345.0"),
        (1234567890123456.0, "1.234567890123456e+15"),
        (-1e15, "-1e+15"),
        (1e16, "1e+16"),
        ([float("nan"), float("-inf")], "[null,null]"),
    ],
)
def test_text_is_that_of_the_original(value: object, text: str) -> None:
    assert str(data(value)) == text


def test_an_empty_datapack_says_so_and_has_no_data() -> None:
    empty = EmptyDataPack("camera", "robot")
    assert empty.isEmpty()
    assert not empty.isUpdated()
    with pytest.raises(ValueError, match="'camera' of engine 'robot' is empty"):
        _ = empty.data


def test_a_datapack_knows_what_it_is() -> None:
    pack = JsonDataPack("p", "e")
    assert (pack.name, pack.engine_name, pack.type) == ("p", "e", "JsonDataPack")
    assert pack.id == DataPackIdentifier("p", "e", "JsonDataPack")
    assert not pack.isEmpty()


@pytest.mark.parametrize("names", [(1, "e"), ("p", None), ("p", DataPackIdentifier("p", "e"))])
def test_names_are_text(names: Any) -> None:
    with pytest.raises(TypeError, match="are text"):
        JsonDataPack(*names)


@pytest.mark.parametrize(("number", "arrives"), [(float("nan"), None), (float("inf"), None), (1.5, 1.5)])
def test_numbers_that_json_does_not_know_arrive_as_null(number: float, arrives: float | None) -> None:
    raw = JsonRawData()
    raw.data["list"] = [number]
    assert raw.sent() == {"list": [arrives]}


def test_what_is_sent_is_a_copy() -> None:
    raw = JsonRawData()
    raw.data["list"] = [1]
    sent = raw.sent()
    raw.data["list"].append(2)
    assert sent == {"list": [1]}
