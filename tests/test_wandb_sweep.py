"""`fit` accepts the command that wandb's agent builds from docs/wandb-sweep.yaml."""

from pathlib import Path

import pytest
import yaml

from lightning_cifar import main

SWEEP = yaml.safe_load((Path(__file__).parents[1] / "docs/wandb-sweep.yaml").read_text())


@pytest.fixture
def started(monkeypatch):
    """Commands that an agent starts, recorded instead of run."""
    commands = []
    monkeypatch.setattr("wandb.wandb_agent.AgentProcess", lambda command, **_: commands.append(command) or Process())
    return commands


class Process:
    last_sigterm_time = None


def test_fit_accepts_the_agents_command(started, monkeypatch, capsys):
    from wandb.wandb_agent import Agent

    values = {"model.learning_rate": {"value": 0.00123}, "data.batch_size": {"value": 256}}
    assert values.keys() == SWEEP["parameters"].keys()
    monkeypatch.setenv("WANDB_RUN_ID", "")  # set by the agent, like others
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    agent = object.__new__(Agent)
    agent._in_jupyter, agent._function, agent._forward_signals = False, None, False
    agent._sweep_command, agent._run_processes = SWEEP["command"], {}
    agent._command_run({"type": "run", "run_id": "abc", "program": None, "args": values})
    (command,) = started
    assert command[:5] == ["/usr/bin/env", "python", "-m", "lightning_cifar", "fit"]
    assert main([*command[4:], "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["model"]["learning_rate"], config["data"]["batch_size"]) == (0.00123, 256)
    assert (config["data"]["held_out"], config["wandb"]) == ("val", "online")


def test_fit_logs_the_metric_of_the_sweep(trained):
    header = next(trained.glob("metrics.csv")).read_text().splitlines()[0]
    assert SWEEP["metric"]["name"] in header.split(",")
