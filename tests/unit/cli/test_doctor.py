"""What `nrp doctor` makes of what it sees: each fault by itself, with what to do about it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest

from nrp_cli.doctor import machine, report
from nrp_cli.doctor.broker import BusView, Heard
from nrp_cli.doctor.catalogue import examine_catalogue
from nrp_cli.doctor.findings import Area, Finding, Verdict
from nrp_cli.doctor.gateway import GatewayView
from nrp_cli.doctor.launchers import examine_launchers, examine_leftovers
from nrp_cli.doctor.targets import Targets, find_targets
from nrp_cli.stack_file import StackFile
from nrp_common.bus import BrokerAddress
from nrp_common.errors import CommandTimeout, SettingsError
from nrp_common.messages import LauncherHealth, LauncherPresence, Reply, Request
from nrp_common.topics import Topics
from nrp_gateway.catalogue import Catalogue

OURS = version("nrp-backend")
GIGABYTE = 10**9


@pytest.fixture
def targets(tmp_path: Path) -> Targets:
    return find_targets("http://127.0.0.1:8090", None, "127.0.0.1:1883", None, tmp_path)


def verdicts(found: list[Finding]) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in found}


def worst(found: list[Finding]) -> Finding:
    """The one finding that is not all right."""
    (bad,) = (each for each in found if each.verdict in (Verdict.WARNING, Verdict.PROBLEM))
    assert bad.advice, bad
    return bad


# -- where to look ---------------------------------------------------------------------------------------------------


def noted(folder: Path) -> None:
    StackFile(1, 0.0, "http://127.0.0.1:8095", "127.0.0.1:1890", "127.0.0.1:1891", "ws://127.0.0.1:9009").write(folder)


def test_without_a_word_it_looks_in_the_usual_places(tmp_path: Path) -> None:
    found = find_targets(None, None, None, None, tmp_path)
    assert (found.url, str(found.broker), found.websocket) == (
        "http://127.0.0.1:8090", "localhost:1883", "ws://localhost:9001",
    )  # fmt: skip
    assert not found.expects_gateway
    assert not found.expects_broker


def test_a_stack_of_this_data_folder_is_found_on_whatever_ports(tmp_path: Path) -> None:
    noted(tmp_path)
    found = find_targets(None, None, None, None, tmp_path)
    assert (found.url, str(found.broker), str(found.mqtt), found.websocket) == (
        "http://127.0.0.1:8095", "127.0.0.1:1891", "127.0.0.1:1890", "ws://127.0.0.1:9009",
    )  # fmt: skip
    assert found.expects_gateway
    assert found.expects_broker


def test_what_is_said_wins_over_the_stacks_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted(tmp_path)
    monkeypatch.setenv("NRP_MQTT_BROKER_ADDRESS", "lab")
    found = find_targets("https://lab/nrp/", "token", None, None, tmp_path)
    assert (found.url, found.token, str(found.broker), found.websocket) == (
        "https://lab/nrp", "token", "lab:1883", "ws://lab:9001",
    )  # fmt: skip
    assert not found.gateway_is_local
    assert str(find_targets(None, None, "other:1", None, tmp_path).broker) == "other:1"


def test_credentials_for_the_broker_come_from_the_services_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(tmp_path)
    monkeypatch.setenv("NRP_MQTT_USERNAME", "nrp")
    monkeypatch.setenv("NRP_MQTT_PASSWORD", "secret")
    monkeypatch.setenv("NRP_MQTT_PREFIX", "lab")
    found = find_targets(None, None, None, None, tmp_path)
    assert found.broker == BrokerAddress("127.0.0.1", 1891, "nrp", "secret")
    assert found.topics == Topics("lab")
    assert "secret" not in repr(found)


@pytest.mark.parametrize("url", ["nonsense", "ftp://lab", "http://", "http://lab:99999", "http://lab:x"])
def test_what_is_no_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=url):
        find_targets(url, None, None, None, tmp_path)


# -- launchers -------------------------------------------------------------------------------------------------------


@dataclass
class FakeBus:
    """A bus on which launchers answer as a test says."""

    answer: Callable[[], Reply]

    def request(self, _topic: str, _request: Request, *, timeout: float) -> Reply:
        return self.answer()


@dataclass
class FakeView:
    """What is heard on the bus, and who answers there."""

    bus: FakeBus
    heard: Heard = field(default_factory=Heard)


def health(**fields: Any) -> LauncherHealth:
    given = {
        "time": time.time(),
        "version": OURS,
        "python": "3.11",
        "free_disk": 100 * GIGABYTE,
        "spooled": 0,
        **fields,
    }
    return LauncherHealth(**given)


def view(
    presence: LauncherPresence | None = None, answer: Callable[[], Reply] = lambda: Reply(health=health())
) -> BusView:
    heard = Heard()
    given = presence or LauncherPresence(online=True, capacity=8, running=2, version=OURS)
    heard.launchers["lab-1"] = given.to_json()
    return cast(BusView, FakeView(FakeBus(answer), heard))


def of_launchers(view: BusView, targets: Targets, gateway_version: str = OURS) -> list[Finding]:
    return list(examine_launchers(view, targets, GatewayView(version=gateway_version)))


def test_a_launcher_with_room_that_answers_is_well(targets: Targets) -> None:
    found = of_launchers(view(), targets)
    assert set(verdicts(found).values()) == {Verdict.OK}
    assert "2 of 8" in found[0].message


def test_no_launcher_at_all_is_a_problem(targets: Targets) -> None:
    nobody = cast(BusView, FakeView(FakeBus(Reply)))
    assert worst(of_launchers(nobody, targets)).verdict is Verdict.PROBLEM


def test_a_launcher_that_was_lost_is_named_with_how_to_clear_it(targets: Targets) -> None:
    found = of_launchers(view(LauncherPresence(online=False)), targets)
    lost = found[-1]
    assert (lost.name, lost.verdict) == ("launcher lab-1", Verdict.WARNING)
    assert "nrp_launcher/lab-1/presence" in lost.advice
    assert verdicts(found)["launchers"] is Verdict.PROBLEM  # and there is no other


def test_a_full_launcher_is_a_warning(targets: Targets) -> None:
    full = worst(of_launchers(view(LauncherPresence(online=True, capacity=2, running=2, version=OURS)), targets))
    assert full.verdict is Verdict.WARNING
    assert "2 of 2" in full.message


def test_a_launcher_that_is_being_shut_down_is_a_warning(targets: Targets) -> None:
    closing = worst(of_launchers(view(LauncherPresence(online=True, version=OURS)), targets))
    assert "shut down" in closing.message


@pytest.mark.parametrize(("theirs", "gateways"), [("0.0.1", OURS), ("", OURS), (OURS, "9.9.9")])
def test_another_version_than_the_gateways_is_a_warning(theirs: str, gateways: str, targets: Targets) -> None:
    presence = LauncherPresence(online=True, capacity=8, version=theirs)
    assert gateways in worst(of_launchers(view(presence), targets, gateways)).message


def test_a_launcher_that_does_not_answer_is_a_problem(targets: Targets) -> None:
    def silence() -> Reply:
        raise CommandTimeout

    silent = worst(of_launchers(view(answer=silence), targets))
    assert silent.verdict is Verdict.PROBLEM
    assert "does not answer" in silent.message


@pytest.mark.parametrize(
    ("skew_s", "verdict"),
    [
        (0.0, Verdict.OK),
        (0.8, Verdict.WARNING),
        (-0.8, Verdict.WARNING),
        (4.0, Verdict.PROBLEM),
        (-60, Verdict.PROBLEM),
    ],
)
def test_clocks_that_disagree_are_told_with_how_much(skew_s: float, verdict: Verdict, targets: Targets) -> None:
    found = of_launchers(view(answer=lambda: Reply(health=health(time=time.time() + skew_s))), targets)
    clock = next(each for each in found if each.name == "clock of lab-1")
    assert clock.verdict is verdict
    if skew_s:
        assert ("ahead of" if skew_s > 0 else "behind") in clock.message


def test_a_launcher_that_is_slow_to_answer_is_not_blamed_for_its_clock(
    targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> Reply:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3)  # when it arrives
        return Reply(health=health(time=now))

    assert verdicts(of_launchers(view(answer=answer), targets))["clock of lab-1"] is Verdict.OK


@pytest.mark.parametrize(
    ("free", "verdict"),
    [(100 * GIGABYTE, Verdict.OK), (2 * GIGABYTE, Verdict.WARNING), (GIGABYTE // 10, Verdict.PROBLEM)],
)
def test_the_disk_of_a_launcher_is_told(free: int, verdict: Verdict, targets: Targets) -> None:
    found = of_launchers(view(answer=lambda: Reply(health=health(free_disk=free))), targets)
    assert verdicts(found)["disk of lab-1"] is verdict


def test_archives_that_wait_are_a_warning(targets: Targets) -> None:
    waiting = worst(of_launchers(view(answer=lambda: Reply(health=health(spooled=3))), targets))
    assert "3 simulations" in waiting.message


def test_what_is_retained_of_simulations_that_nobody_knows_is_left_over(targets: Targets) -> None:
    seen = view()
    seen.heard.simulations |= {1, 2, 3}
    (left,) = examine_leftovers(seen, GatewayView(simulations={2}))
    assert left.verdict is Verdict.WARNING
    assert "(1, 3)" in left.message
    assert list(examine_leftovers(seen, GatewayView(simulations={1, 2, 3, 4}))) == []
    assert list(examine_leftovers(seen, GatewayView(simulations=None))) == []  # nobody can say
    launched_since = GatewayView(simulations={1, 2}, knows=lambda simulation_id: simulation_id == 3)
    assert list(examine_leftovers(seen, launched_since)) == []


# -- the catalogue ---------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue_file(targets: Targets) -> Path:
    file = targets.data / "catalogue.sqlite"
    catalogue = Catalogue(f"sqlite:///{file}")
    catalogue.migrate()
    catalogue.close()
    return file


def of_catalogue(targets: Targets, *, gateway_answers: bool = False) -> list[Finding]:
    return list(examine_catalogue(targets, GatewayView(answers=gateway_answers)))


def test_a_catalogue_of_this_version_is_well_and_unchanged(targets: Targets, catalogue_file: Path) -> None:
    assert verdicts(of_catalogue(targets)) == {"catalogue": Verdict.OK}


def test_none_yet_is_no_problem_and_none_is_made(targets: Targets) -> None:
    for gateway_answers in (False, True):
        assert verdicts(of_catalogue(targets, gateway_answers=gateway_answers)) == {"catalogue": Verdict.NOTE}
    assert list(targets.data.iterdir()) == []


def test_a_catalogue_of_another_version_is_a_warning(targets: Targets, catalogue_file: Path) -> None:
    with sqlite3.connect(catalogue_file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    assert "another version" in worst(of_catalogue(targets)).message


def test_a_file_that_is_no_catalogue_is_a_problem(targets: Targets) -> None:
    (targets.data / "catalogue.sqlite").write_bytes(b"no database at all" * 100)
    assert worst(of_catalogue(targets)).verdict is Verdict.PROBLEM


def test_a_catalogue_that_cannot_be_written_is_a_problem(
    targets: Targets, catalogue_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NRP_CATALOGUE_URL", f"sqlite:///file:{catalogue_file}?mode=ro&uri=true")
    found = worst(of_catalogue(targets))
    assert found.verdict is Verdict.PROBLEM
    assert "readonly" in found.message


def test_no_password_is_shown(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRP_CATALOGUE_URL", "postgresql+nodriver://nrp:secret@db/nrp")
    assert "secret" not in str(of_catalogue(targets))
    monkeypatch.setenv("NRP_CATALOGUE_URL", "no url")
    assert worst(of_catalogue(targets)).verdict is Verdict.PROBLEM


# -- the machine -----------------------------------------------------------------------------------------------------


def of_machine(targets: Targets, *, is_up: bool = True) -> list[Finding]:
    return list(machine.examine_machine(targets, is_up=is_up))


def test_a_data_folder_that_can_be_written_is_well_and_stays_as_it_is(targets: Targets) -> None:
    assert verdicts(of_machine(targets))["data folder"] is Verdict.OK
    assert list(targets.data.iterdir()) == []


def test_a_data_folder_that_everybody_may_write_is_a_warning(targets: Targets) -> None:
    targets.data.chmod(0o777)
    assert "chmod o-w" in worst([each for each in of_machine(targets) if each.name == "data folder"]).advice


def test_a_data_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = of_machine(find_targets(None, None, None, None, file))
    assert verdicts(found)["data folder"] is Verdict.PROBLEM


def test_a_data_folder_that_is_still_to_be_made_is_no_problem(tmp_path: Path) -> None:
    found = of_machine(find_targets(None, None, None, None, tmp_path / "a" / "b"))
    assert verdicts(found)["data folder"] is Verdict.NOTE
    assert list(tmp_path.iterdir()) == []


def test_little_memory_is_a_warning(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LITTLE_MEMORY", 10**18)
    assert verdicts(of_machine(targets))["memory"] is Verdict.WARNING


def test_without_mosquitto_it_says_what_is_used_instead(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_mosquitto", lambda: None)
    found = next(each for each in of_machine(targets) if each.name == "Mosquitto")
    assert found.verdict is Verdict.NOTE
    assert "apt-get install" in found.advice


# -- the report ------------------------------------------------------------------------------------------------------

AREAS = [
    Area("One", [Finding.ok("a", "well"), Finding.note("b", "worth knowing")]),
    Area("Other", [Finding.warning("c", "not for long [bold]", "do this"), Finding.problem("d", "broken", "do that")]),
    Area("Empty", []),
]


def test_scripts_get_every_finding_and_the_sum() -> None:
    told = report.as_json(AREAS)
    assert json.loads(json.dumps(told)) == told
    assert (told["healthy"], told["problems"], told["warnings"]) == (False, 1, 1)
    assert told["findings"][2] == {
        "area": "Other", "name": "c", "verdict": "warning", "message": "not for long [bold]", "advice": "do this",
    }  # fmt: skip
    assert report.as_json(AREAS[:1])["healthy"]


def test_people_get_a_line_each_with_the_advice_below(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(AREAS)
    assert capsys.readouterr().out.splitlines() == [
        "One",
        "  ok       a  well",
        "  note     b  worth knowing",
        "Other",
        "  warning  c  not for long [bold]",
        "              -> do this",
        "  problem  d  broken",
        "              -> do that",
        "1 problem, 1 warning",
    ]
