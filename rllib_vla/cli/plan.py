"""`rllib plan`: what a run will need, before anything starts."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError


def plan(
    config_file: Annotated[str, typer.Argument(help="Experiments (.yaml) or a config object (.py).")],
    config: options.ConfigJson = "{}",
    preset: Annotated[
        str | None,
        typer.Option(help="Size of the model, where its checkpoint is not on this machine: tiny, small, 7b."),
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of one GPU or CPU process; typical values if not given.")
    ] = None,
    steps_per_second: Annotated[
        float | None, typer.Option(help="Control steps one simulator makes per second; typical values if not given.")
    ] = None,
) -> None:
    """Print GPU and host memory, disk, and time per iteration of an experiment; nothing is started.

    The file is checked exactly as by [bold]rllib train file[/bold]. Parameters are counted exactly, activations
    measured without computing them; episodes are bounded by the tasks' step limits.
    """
    with input_errors_as_panel():
        prepare_process()
        from rllib_vla.cli.experiment_file import parse_experiments
        from rllib_vla.cli.experiment_source import load_source

        document, base_config = load_source(config_file)
        overrides = options.parse_mapping(config, "--config")
        console = make_console()
        for experiment in parse_experiments(document, overrides, base_config):
            print_plan(make_plan(experiment, preset), console, tflops=tflops, steps_per_second=steps_per_second)


class Plan:
    """All figures of one experiment.

    Args:
        experiment: Checked experiment; the first alternative of every search space is planned.
        preset: Size of the model instead of that of the checkpoint.

    Raises:
        InputError: Not a GRPO experiment, or a model whose size cannot be known here.
    """

    def __init__(self, experiment, preset: str | None = None):
        from rllib_vla.cli import plan_memory, plan_model
        from rllib_vla.cli.plan_policy import read_policy

        self.experiment = experiment
        self.config = config = experiment.example_config.copy(copy_frozen=False)
        config.validate()
        self.model_config, self.prompt_length = read_policy(config, preset)
        model = plan_model.build_model(self.model_config, config.model_config)
        self.size = plan_model.measure_size(model)
        self.learning = plan_memory.learning_of(config, self.size)
        self.load = plan_memory.workload_of(config, self.model_config, self.prompt_length)
        pool = config.get_pool_size()
        self.sampling_rows = max(1, pool.num_simulators) * pool.num_envs_per_simulator
        self.micro_rows = self._micro_rows()
        self.sampling = plan_model.measure_sampling(model, self.sampling_rows, self.prompt_length)
        self.training = plan_model.measure_training(
            model, self.micro_rows, self.prompt_length, recompute=self.learning.recompute
        )
        costs = (self.size, self.learning, self.training, self.sampling)
        self.gpus = plan_memory.gpu_budgets(config, *costs)
        self.processes = plan_memory.host_budgets(config, *costs, self.load)
        self.checkpoint = plan_memory.checkpoint_items(config, self.size, self.learning, self.load)
        self.num_checkpoints = _num_checkpoints(experiment)

    @property
    def host_bytes(self) -> int:
        """All processes and the object store together."""
        return sum(budget.count * budget.peak for budget in self.processes)

    @property
    def disk_bytes(self) -> int:
        """All checkpoints that are kept, and one that is being written."""
        return (self.num_checkpoints + 1) * sum(item.bytes for item in self.checkpoint)

    @property
    def model_calls(self) -> int:
        """Model calls of one sampling round whose trajectories all reach the step limit."""
        return self.load.groups_per_round * self.config.group_size * self.load.rows_per_trajectory

    @property
    def update_rows(self) -> int:
        """Rows that all learners together train on in an iteration, at the step limit."""
        trajectories = self.load.groups_per_batch * self.config.group_size
        return trajectories * self.load.rows_per_trajectory * self.config.num_epochs

    @property
    def sampling_flops(self) -> float:
        """Of one round, all runners together."""
        return self.sampling.flops / self.sampling_rows * self.model_calls

    @property
    def update_flops(self) -> float:
        """Of one iteration, all learners together."""
        return self.training.flops / self.micro_rows * self.update_rows

    def _micro_rows(self) -> int:
        config = self.config
        tokens = config.micro_batch_tokens
        if tokens:
            # Visual tokens, prompt, action slots and the stop token.
            length = self.model_config.num_visual_tokens + self.prompt_length + self.model_config.num_action_tokens + 1
            return max(1, tokens // length)
        minibatch = (
            config.minibatch_size or self.load.groups_per_batch * config.group_size
        ) // self.learning.num_learners
        return max(1, min(config.micro_batch_size or 10**9, minibatch * self.load.rows_per_trajectory))


def make_plan(experiment, preset: str | None = None) -> Plan:
    """Computes all figures of an experiment; see `Plan`."""
    from rllib_vla.cli.algorithms import OWN_ALGORITHMS

    if experiment.run not in OWN_ALGORITHMS:
        raise InputError(f"experiment '{experiment.name}' runs {experiment.run}; a plan can be made of GRPO only")
    return Plan(experiment, preset)


def print_plan(plan: Plan, console: Console, *, tflops: float | None, steps_per_second: float | None) -> None:
    """Shows a plan as tables."""
    size, load = plan.size, plan.load
    learning = plan.learning
    strategy = {"none": "one learner", "ddp": f"{learning.num_learners} copies (DDP)"}.get(
        learning.strategy, f"sharded over {learning.num_learners} (FSDP2)"
    )
    console.print(
        f"[bold]{plan.experiment.name}[/bold]: {size.num_parameters / 1e6:,.1f} M parameters, "
        f"{size.num_trained / 1e6:,.1f} M trained, {strategy}, placement {plan.config.placement}",
        highlight=False,
    )
    console.print(
        f"A trajectory has at most {load.rows_per_trajectory} model calls, a group up to {_size(load.group_bytes)}, "
        f"a round {load.groups_per_round} groups. Micro-batch: {plan.micro_rows} model calls of "
        f"{plan.model_config.num_visual_tokens + plan.prompt_length + plan.model_config.num_action_tokens + 1} tokens.",
        highlight=False,
    )
    for title, budgets in (("GPU memory", plan.gpus), ("host memory", plan.processes)):
        if budgets:
            console.print(_budget_table(title, budgets))
    console.print(f"Host memory in all: [bold]{_size(plan.host_bytes)}[/bold] (spread over the nodes)", highlight=False)
    one = sum(item.bytes for item in plan.checkpoint)
    parts = ", ".join(f"{item.name} {_size(item.bytes)}" for item in plan.checkpoint)
    console.print(
        f"Disk: {_size(one)} per checkpoint ({parts}); with {plan.num_checkpoints} kept and one being written "
        f"[bold]{_size(plan.disk_bytes)}[/bold] per trial",
        highlight=False,
    )
    _print_time(plan, console, tflops, steps_per_second)


def _print_time(plan: Plan, console: Console, tflops: float | None, steps_per_second: float | None) -> None:
    from rllib_vla.cli.plan_time import estimate

    seconds = estimate(plan, tflops=tflops, steps_per_second=steps_per_second)
    simulation = "simulation unknown (give --steps-per-second)"
    if seconds.simulation is not None:
        simulation = f"simulation {seconds.simulation:,.1f} s"
    for line in (
        f"Arithmetic, at most: {plan.sampling_flops / 1e12:,.1f} TFLOP per sampling round ({plan.model_calls:,} model "
        f"calls), {plan.update_flops / 1e12:,.1f} TFLOP per update ({plan.update_rows:,} rows)",
        f"An iteration of one round: [bold]{seconds.total:,.0f} s[/bold] (policy calls {seconds.policy:,.1f} s, "
        f"{simulation}, update {seconds.update:,.1f} s)",
        f"at {seconds.basis}",
    ):
        console.print(line, highlight=False)


def _budget_table(title: str, budgets: list) -> Table:
    table = Table("", "what", "bytes", "when", "how known", title=title, title_justify="left")
    table.columns[2].justify = "right"
    for budget in budgets:
        for i, item in enumerate(item for item in budget.items if item.bytes):
            name = f"{budget.count} x {budget.name}" if i == 0 else ""
            table.add_row(name, item.name, _size(item.bytes), "" if item.phase == "always" else item.phase, item.note)
        table.add_row("", "[bold]peak, each[/bold]", f"[bold]{_size(budget.peak)}[/bold]", "", "", end_section=True)
    return table


def _num_checkpoints(experiment) -> int:
    """How many checkpoints a trial leaves on disk; without `num_to_keep`, as many as `training_iteration` allows."""
    settings = experiment.checkpoints
    if settings.num_to_keep:
        return settings.num_to_keep
    iterations = experiment.stop.get("training_iteration")
    if settings.frequency and iterations:
        return int(iterations // settings.frequency) + 1
    return 1


def _size(num_bytes: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= 0.995 * factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.0f} kB"
