"""What others say of a launcher does not hide it, and two of one name never run the same simulation."""

from __future__ import annotations

from nrp_common.messages import LauncherPresence
from tests.launchers import Launchers, RunningLauncher
from tests.waiting import wait_until


def is_there(launcher: RunningLauncher) -> bool:
    """Whether the last word on it is that it is there."""
    return bool(launcher.presences[-1].payload) and launcher.presences[-1].json["online"]


def test_last_will_that_comes_late_does_not_hide_the_launcher_that_came_after(launchers: Launchers) -> None:
    launcher = launchers.running()
    for gone in (LauncherPresence(online=False).to_json(), b""):
        before = len(launcher.presences)
        launcher.asker.publish(launcher.topics.launcher_presence(launcher.name), gone, qos=1, retain=True)
        wait_until(lambda before=before: len(launcher.presences) > before + 1)  # type: ignore[misc]
        assert is_there(launcher)


def test_of_two_launchers_of_one_name_only_the_one_that_is_meant_takes_a_launch(launchers: Launchers) -> None:
    first = launchers.running()
    meant = first.presences[-1].json["instance"]
    second = launchers.unstarted()
    second.topics = first.topics
    second.restart()
    wait_until(lambda: "called 'test', too" in first.log)
    simulation = first.launch_experiment(first.experiment(), instance=meant)
    simulation.await_transition("initialized")
    assert simulation.folder.exists()
    assert not (second.data / "simulations" / str(simulation.id)).exists()
    second.end()
    wait_until(lambda: is_there(first))
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
