"""The embedded core does what nrp-core 1.4.1 was recorded doing, call by call and line by line of the logs.

Where it differs on purpose, the test says so: the iteration counter goes on after a reset in the original, and integers
beyond 64 bits are lost there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nrp_simserver.cores.embedded import core as core_module
from nrp_simserver.cores.embedded.core import EmbeddedCore
from nrp_simserver.cores.embedded.loop import Loop

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # one of the experiments leaves them

REFERENCE = Path(__file__).parents[2] / "fixtures" / "reference"
CASES = {case["case"]: case for case in json.loads((REFERENCE / "cases.json").read_text())}


class LoopThatCountsOn(Loop):
    """With the original's iteration counter."""

    def reset(self, handed_in: list[tuple[str, str, Any]]) -> None:
        iteration = self.clock.iteration
        super().reset(handed_in)
        self.clock.iteration = iteration


def replay(case: dict[str, Any], folder: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """Make the calls of a case; what each did, and what the experiment logged."""
    shutil.copytree(REFERENCE / case["source"], folder)
    core = EmbeddedCore(folder, case["config"], **options)
    calls = [{"call": "NrpCore", "args": [], "returned": None, "raised": None, "state_after": core.current_state()}]
    for name, *arguments in case["calls"]:
        returned = getattr(core, name)(*arguments)
        calls.append(
            {
                "call": name,
                "args": arguments,
                "returned": json.loads(json.dumps(returned)),
                "returned_type": type(returned).__name__,
                "raised": None,
                "state_after": core.current_state(),
            }
        )
    logs = {
        path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("log_*.jsonl")
    }
    return calls, logs


@pytest.mark.parametrize("engine_processes", ["needed", "all"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "g_json_data__roundtrip"])
def test_an_experiment_goes_as_in_the_original(
    name: str, engine_processes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads((REFERENCE / "recorded" / f"{name}.json").read_text())
    monkeypatch.setattr(core_module, "Loop", LoopThatCountsOn)
    calls, logs = replay(CASES[name], tmp_path / "experiment", engine_processes=engine_processes)
    assert calls == recorded["calls"]
    assert logs == recorded["log_files"]


ORIGINALS_FAULTS = {"u64", "tf_u64", "big64", "tf_big64", "big100", "tf_big100", "neg64", "tf_neg64"} | {
    "np_strided",
    "tf_np_strided",
}
"""Integers that it lost, and a numpy array with gaps of which it read the wrong elements; see the tests below."""


def without_faults(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What can be compared: how numpy writes its numbers, and where objects lie in memory, is left out too."""
    return [
        {key: value for key, value in line.items() if key != "given"}
        for line in lines
        if line.get("pack", line.get("tf_value")) not in ORIGINALS_FAULTS
    ]


@pytest.mark.parametrize("engine_processes", ["needed", "all"])
def test_values_cross_between_engines_and_functions_as_in_the_original(engine_processes: str, tmp_path: Path) -> None:
    name = "g_json_data__roundtrip"
    recorded = json.loads((REFERENCE / "recorded" / f"{name}.json").read_text())
    calls, logs = replay(CASES[name], tmp_path / "experiment", engine_processes=engine_processes)
    assert calls == recorded["calls"]
    assert logs.keys() == recorded["log_files"].keys()
    for file, lines in logs.items():
        assert without_faults(lines) == without_faults(recorded["log_files"][file])


@pytest.mark.parametrize(
    ("datapack", "value"),
    [
        ("u64", 2**64 - 1),
        ("tf_big100", 2**100),
        ("tf_neg64", -(2**64)),
        ("tf_np_strided", [0, 2, 4]),
    ],
)
def test_values_that_the_original_lost_arrive(datapack: str, value: object, tmp_path: Path) -> None:
    _, logs = replay(CASES["g_json_data__roundtrip"], tmp_path / "experiment")
    received = [line["repr"] for line in logs["log_engine_dst.jsonl"] if line["pack"] == datapack]
    assert set(received) == {repr({"v": value})}
