"""The examples with simulators, on a running stack, as somebody watches them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

from tests.e2e.conftest import EXAMPLES, RunningStack
from tests.e2e.experiments import launch, record_of
from tests.waiting import wait_until


def test_whoever_watches_the_robot_gets_its_pictures_spikes_and_pose(stack: RunningStack, tmp_path: Path) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-u", EXAMPLES / "braitenberg_husky" / "watch.py", stack.mqtt],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert watching.stdout.readline() == "watching\n"
        number = launch(stack, "braitenberg_husky")["simulationID"]
        stack.put_state(number, "started")
        wait_until(lambda: record_of(stack, number)["state"] == "completed", 60)
        tenths = int(10 * record_of(stack, number)["simulationTime"])
        heard: Counter[str] = Counter()
        while min(heard[name] for name in ("camera", "rates", "light", "pose")) < tenths:
            heard[watching.stdout.readline().partition(" ")[0]] += 1
        stack.put_state(number, "stopped")
    finally:
        watching.terminate()
        watching.communicate()
    with Image.open(tmp_path / "camera.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (160, 120))
