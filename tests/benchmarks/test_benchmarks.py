"""The plumbing of the benchmarks; the benchmarks themselves run with `make bench`."""

import importlib
import json
import sys
import time
import types

import numpy as np
import pytest
import torch

from benchmarks import command
from benchmarks.measure import Figure, NotAvailableError, Variant, compare, shares
from benchmarks.memory import peak_megabytes
from benchmarks.overhead import summarize
from benchmarks.report import format_ratio
from benchmarks.stopwatch import Stopwatch

FIGURE = Figure("new way", 2.0, "old way", 6.5, "ms", 3.25, (3.0, 3.5))


@pytest.fixture
def fake_benchmark(monkeypatch):
    """A benchmark `fake` besides the real ones; returns the list of its calls' `quick`."""
    calls = []

    def run(quick):
        calls.append(quick)
        return [FIGURE]

    module = types.ModuleType("fake_benchmark", "Something measured.\n\nDetails.")
    module.run = run
    monkeypatch.setitem(sys.modules, "fake_benchmark", module)
    monkeypatch.setitem(command.BENCHMARKS, "fake", "fake_benchmark")
    monkeypatch.setattr(command, "_prepare_process", lambda: None)
    return calls


def test_a_run_prints_a_table_and_writes_the_figures(fake_benchmark, tmp_path, capsys):
    path = tmp_path / "results.json"
    assert command.main(["fake", "--quick", "--output", str(path)]) == 0
    assert fake_benchmark == [True]
    printed = capsys.readouterr().out
    for text in ("fake: Something measured.", "new way", "2.00 ms", "old way", "6.50 ms", "3.25x", "3.00x .. 3.50x"):
        assert text in printed
    written = json.loads(path.read_text())
    assert written["quick"] is True
    assert written["machine"]["num_cores"] >= 1
    assert list(written["results"]) == ["fake"]
    (figure,) = written["results"]["fake"]
    assert Figure(**(figure | {"ratio_range": tuple(figure["ratio_range"])})) == FIGURE


def test_a_busy_machine_is_reported(fake_benchmark, tmp_path, capsys, monkeypatch):
    for load, is_reported in ((0.0, False), (500.0, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        command.main(["fake", "--output", str(tmp_path / "results.json")])
        assert ("do not quote" in capsys.readouterr().out) == is_reported


def test_a_benchmark_that_lacks_something_is_left_out(fake_benchmark, tmp_path, capsys, monkeypatch):
    def run(quick):
        raise NotAvailableError("no assets")

    monkeypatch.setattr(sys.modules["fake_benchmark"], "run", run)
    path = tmp_path / "results.json"
    assert command.main(["fake", "--output", str(path)]) == 0
    assert "fake: left out. no assets" in capsys.readouterr().out
    assert json.loads(path.read_text())["results"] == {}


def test_an_unknown_name_is_refused_with_the_nearest(fake_benchmark, capsys):
    with pytest.raises(SystemExit):
        command.main(["fake", "steping"])
    assert "'stepping'" in capsys.readouterr().err
    assert fake_benchmark == []


@pytest.mark.parametrize("name", list(command.BENCHMARKS))
def test_every_benchmark_has_a_title_and_a_run_function(name):
    module = importlib.import_module(command.BENCHMARKS[name])
    assert module.__doc__.splitlines()[0].endswith(".")
    assert callable(module.run)


class Clock:
    """A clock that only moves when work is done."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_variants_alternate_and_the_first_one_is_the_baseline(monkeypatch):
    clock, log = Clock(monkeypatch), []
    durations = {"old": iter([100, 8, 9, 4]), "new": iter([50, 2, 3, 4])}  # the first of each is not measured

    def variant(name):
        def run():
            log.append(name)
            clock.work(next(durations[name]))

        return Variant(name, run, prepare=lambda: clock.work(1000))

    variants = [variant("old"), variant("new")]
    (figure,) = compare(variants, rounds=3, amount=2)
    assert log == ["old", "new"] * 4
    assert (figure.what, figure.baseline) == ("new", "old")
    assert (figure.value, figure.baseline_value, figure.unit) == (1500.0, 4000.0, "ms")
    assert figure.ratio == pytest.approx(8 / 3)
    assert figure.ratio_range == (1.0, 4.0)


def test_rates_are_per_second_and_ratios_stay_speedups(monkeypatch):
    clock = Clock(monkeypatch)
    variants = [Variant("old", lambda: clock.work(4.0)), Variant("new", lambda: clock.work(2.0))]
    (figure,) = compare(variants, rounds=1, amount=10, rate_unit="pieces/s")
    assert (figure.value, figure.baseline_value, figure.ratio) == (5.0, 2.5, 2.0)


def test_a_variant_that_does_several_pieces_in_a_run_is_measured_per_piece(monkeypatch):
    clock = Clock(monkeypatch)
    variants = [Variant("one", lambda: clock.work(4.0)), Variant("eight", lambda: clock.work(8.0), pieces=8)]
    (figure,) = compare(variants, rounds=1)
    assert (figure.value, figure.baseline_value, figure.ratio) == (1000.0, 4000.0, 4.0)


def test_shares_of_a_whole():
    first, second = shares([{"a": 1.0}, {"a": 3.0, "b": 2.0}], [10.0, 10.0], whole="all")
    assert (first.what, first.value, first.baseline_value) == ("a", 2000.0, 10000.0)
    assert first.ratio == pytest.approx(0.2)
    assert (second.what, second.ratio_range) == ("b", (0.0, 0.2))
    assert format_ratio(first.ratio, first.kind) == "20.0 %"


def test_inner_parts_do_not_count_for_outer_ones(monkeypatch):
    clock, watch = Clock(monkeypatch), Stopwatch()

    class Machine:
        def outer(self):
            clock.work(1)
            self.inner()
            self.inner()
            return "done"

        def inner(self):
            clock.work(10)

    with watch.watch(Machine, "outer", "outer"), watch.watch(Machine, "inner", lambda machine: type(machine).__name__):
        with watch.part("root"):
            clock.work(100)
            assert Machine().outer() == "done"
        assert watch.seconds == {"root": 100, "outer": 1, "Machine": 20}
    Machine().outer()
    assert sum(watch.seconds.values()) == 121


def test_overhead_is_what_is_not_work():
    parts = [{"simulation": 6.0, "small": 1.0}, {"simulation": 5.0, "small": 1.0, "large": 4.0}]
    figures = {figure.what: figure for figure in summarize(parts)}
    assert list(figures) == ["simulation", "large", "small", "overhead, all"]
    assert figures["overhead, all"].ratio_range == (pytest.approx(1 / 7), pytest.approx(0.5))
    assert figures["overhead, all"].kind == "share"


def test_recovery_is_compared_with_the_start_of_the_same_round():
    from benchmarks.recovery import summarize

    figure = summarize("learner", "start of the trial", [(10.0, 5.0), (20.0, 30.0), (12.0, 6.0)])
    assert (figure.what, figure.value, figure.baseline_value, figure.unit) == ("learner killed", 6.0, 12.0, "s")
    assert (figure.ratio, figure.ratio_range, figure.kind) == (0.5, (0.5, 1.5), "share")


def test_lockstep_plays_the_trajectories_that_the_engine_plays(toy_policy_dir):
    from benchmarks.rollout import play_in_lockstep, play_with_engine
    from tests.rllib_vla.toy import make_runner, requests, toy_config

    runner = make_runner(toy_config(toy_policy_dir))
    groups = requests(5)  # 20 members on 8 slots: two full batches and a half
    schemes = [
        play_with_engine(runner, groups),
        play_in_lockstep(runner, groups),
        play_in_lockstep(runner, groups, one_call_at_a_time=True),
    ]
    runner.stop()
    played = [
        sorted(
            (*map(m.episode.custom_data.get, ("group_id", "member")), m.num_control_steps, m.success) for m in members
        )
        for members in schemes
    ]
    assert len(played[0]) == 20
    assert len({steps for _, _, steps, _ in played[0]}) > 1  # ragged
    assert played[0] == played[1] == played[2]


def test_the_straightforward_model_gives_the_same_logits():
    from benchmarks import straightforward
    from policies.openvla_oft import OpenVLAOFT, OpenVLAOFTConfig

    torch.manual_seed(0)
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny"))
    images = torch.randint(0, 256, (2, 1, 96, 96, 3), dtype=torch.uint8)
    prompts = torch.tensor([[1, 260, 400, 259], [1, 260, 259, 1024]])
    batch = images, prompts, prompts != 1024
    with torch.no_grad():
        expected = model(*batch)
        logits = straightforward.action_logits(straightforward.make_straightforward(model), *batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_straightforward_adapters_have_the_same_gradients():
    from benchmarks import straightforward
    from policies.openvla_oft import LoRAConfig, OpenVLAOFT, OpenVLAOFTConfig, add_lora, lora_state_dict

    torch.manual_seed(0)
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny"))
    add_lora(model, LoRAConfig(rank=4))
    for adapter in lora_state_dict(model).values():
        torch.nn.init.normal_(adapter, std=0.1)
    images = torch.randint(0, 256, (2, 1, 96, 96, 3), dtype=torch.uint8)
    prompts = torch.tensor([[1, 260, 400, 259], [1, 260, 259, 400]])
    gradients = []
    for make in (lambda model: model, straightforward.make_straightforward):
        model.zero_grad()
        make(model)(images, prompts, torch.ones_like(prompts)).log_softmax(dim=-1)[..., 0].mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-3)


def test_the_straightforward_image_chain_gives_the_same_bytes():
    from benchmarks.straightforward import libero_picture
    from policies.openvla_oft.image_chain import apply_chain

    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(libero_picture(frame), apply_chain([frame], "libero", 224)[0])


def test_midsize_model_is_as_announced():
    from benchmarks.midsize import PROMPT_LENGTH, midsize_config
    from policies.openvla_oft import OpenVLAOFT

    config = midsize_config()
    assert (config.num_patches, PROMPT_LENGTH, config.num_action_tokens) == (256, 30, 56)
    with torch.device("meta"):
        assert round(sum(p.numel() for p in OpenVLAOFT(config).parameters()) / 1e6) == 121


def test_peak_memory_counts_what_was_freed_again():
    assert 90 < peak_megabytes(lambda: np.ones(100 * 2**20, np.uint8).sum()) < 110
