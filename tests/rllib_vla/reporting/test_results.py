import json

import pytest

from rllib_vla.evaluation.confidence import wilson_interval
from rllib_vla.reporting.results import load_study
from tests.rllib_vla.reporting.made_up_runs import write_trial


def test_seeds_are_pooled_and_configurations_ordered(tmp_path):
    number = 0
    for temperature, final in ((1.0, 0.5), (1.6, 0.8)):
        for seed in (0, 1, 2):
            write_trial(tmp_path / "x", number, {"temperature": temperature, "seed": seed}, [0.2, final + 0.05 * seed])
            number += 1
    study = load_study([tmp_path / "x"])
    assert study.swept == ["temperature"]
    assert [c.label for c in study.configurations] == ["temperature 1.6", "temperature 1"]
    final = study.configurations[0].final
    assert (final.iteration, final.num_seeds) == (2, 3)
    assert final.mean == pytest.approx(0.85)
    # Student's interval of 0.80, 0.85, 0.90: standard error 0.05 / sqrt(3), quantile 4.303; Wilson's reaches lower.
    assert final.low == pytest.approx(wilson_interval(34, 40)[0])
    assert final.high == pytest.approx(0.85 + 4.3027 * 0.05 / 3**0.5, abs=1e-4)


def test_one_seed_has_wilson_intervals_and_a_point_before_training(tmp_path):
    write_trial(tmp_path / "x", 0, {"temperature": 1.0}, [0.25, 0.5], num_episodes=40, start=0.1)
    (configuration,) = load_study([tmp_path / "x"]).configurations
    start, _, final = configuration.curve
    assert (start.iteration, start.minutes, start.mean) == (0, 0.0, 0.1)
    assert (final.low, final.high) == wilson_interval(20, 40)
    assert final.minutes == 1.0


def test_final_is_what_all_seeds_reached(tmp_path):
    write_trial(tmp_path / "x", 0, {"seed": 0}, [0.1, 0.2, 0.9])
    write_trial(tmp_path / "x", 1, {"seed": 1}, [0.3, 0.4], done=False)
    study = load_study([tmp_path / "x"])
    assert [trial.status for trial in study.trials] == ["finished", "unfinished"]
    final = study.configurations[0].final
    assert (final.iteration, final.mean) == (2, pytest.approx(0.3))


def test_trials_whose_parameters_change_are_configurations_of_their_own(tmp_path):
    for number in (0, 1):
        trial = write_trial(tmp_path / "pbt", number, {"temperature": 1.0}, [0.2, 0.3])
        first, second = (json.loads(line) for line in (trial / "result.json").read_text().splitlines())
        second["config"]["temperature"] = 1.3
        (trial / "result.json").write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    assert len(load_study([tmp_path / "pbt"]).configurations) == 2


def test_several_experiments_single_trials_and_checkpoints(tmp_path):
    first = write_trial(tmp_path / "a", 0, {"temperature": 1.0}, [0.2])
    write_trial(tmp_path / "b", 0, {"temperature": 1.6}, [0.3])
    (first / "checkpoint_000000").mkdir()
    (first / "checkpoint_000000" / "result.json").write_text('{"training_iteration": 1}')
    assert load_study([tmp_path / "a", tmp_path / "b"]).swept == ["temperature"]
    assert len(load_study([first]).trials) == 1


def test_a_line_cut_short_is_left_out(tmp_path):
    trial = write_trial(tmp_path / "x", 0, {}, [0.2, 0.3], done=False)
    with (trial / "result.json").open("a") as file:
        file.write('{"training_iteration": 3, "env_')
    assert load_study([tmp_path / "x"]).trials[0].num_iterations == 2


def test_time_is_split_without_a_rest_below_zero(tmp_path):
    write_trial(tmp_path / "x", 0, {}, [0.2, 0.3])
    seconds = load_study([tmp_path / "x"]).trials[0].seconds()
    assert seconds == pytest.approx(
        {"sampling": 30, "update": 16, "weight sync": 1, "evaluation": 11, "other": 2}, abs=1e-6
    )


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(ValueError, match="no such directory"):
        load_study([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"holds no results \(yet\)"):
        load_study([tmp_path])


def test_runs_of_several_processes_with_the_same_functions_are_seeds(tmp_path):
    for seed, address in enumerate(("0x7f2dfeb40f40", "0x7fac0f741120")):
        config = {
            "seed": seed,
            "policy_mapping_fn": f"<function AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN at {address}>",
        }
        trial = write_trial(tmp_path / f"run{seed}", 0, {}, [0.5])
        (trial / "params.json").write_text(json.dumps(config))
    study = load_study([tmp_path / "run0", tmp_path / "run1"])
    assert study.swept == []
    assert [len(c.trials) for c in study.configurations] == [2]
