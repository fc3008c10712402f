"""Simulations run as Jobs of a cluster, and a launcher sees each to its end."""

from __future__ import annotations

from tests.kubernetes.installation import ClusterLauncher


def test_simulation_runs_as_a_job_from_its_launch_to_its_logs(launcher: ClusterLauncher) -> None:
    simulation = launcher.started("print('the script says this')\nwhile True:\n    nrp.run_loop()\n")
    assert launcher.pod_runs(simulation)
    simulation.await_steps()
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["reason"]) == ("stopped", None)
    assert "the script says this" in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left(20)
    launcher.assert_cluster_is_empty()
