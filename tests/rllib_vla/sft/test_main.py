import contextlib
import dataclasses
import shutil
import subprocess
import time

import h5py
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.experiments.kinds.base import RLLIB
from rllib_vla.sft.demonstrations import DemonstrationError
from rllib_vla.sft.distributed import WorkerError
from rllib_vla.sft.evaluation import BestCheckpoint
from rllib_vla.sft.main import absolute_paths, refuse_unfinished_run, run_sft
from rllib_vla.sft.training_state import STATE_FILE, read_progress, save_training_state
from tests.conftest import ROOT
from tests.rllib_vla.sft.conftest import config_for, write_demo_file


def test_checkpoint_loads_as_a_policy_that_knows_instructions_and_statistics(demos_dir):
    path = run_sft(config_for(demos_dir))
    policy = OpenVLAOFTPolicy.from_pretrained(path)
    assert policy.unnorm_key == "blocks"
    assert policy.norm_stats["blocks"]["num_trajectories"] == 15  # of all demonstrations, not only the drawn ones
    inputs = policy.processor([torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()], ["push the cube"])
    assert policy.action_logits(inputs).shape == (1, 56, 256)


def test_same_seed_same_checkpoint(demos_dir):
    first = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir))).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    again = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir))).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    other = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir, seed=1))).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_scalars_reach_tensorboard_and_the_callback(demos_dir):
    seen = []
    run_sft(config_for(demos_dir), on_log=seen.append)
    events = EventAccumulator(str(demos_dir / "run" / "tensorboard")).Reload()
    losses = events.Scalars("sft/loss")
    assert [point.step for point in losses] == [2, 4] == [scalars["step"] for scalars in seen]
    assert losses[0].value == pytest.approx(seen[0]["loss"], rel=1e-5)
    assert {"sft/loss", "sft/token_accuracy", "sft/lr", "sft/gradient_norm"} <= set(events.Tags()["scalars"])


def test_training_starts_from_a_checkpoint(demos_dir):
    first = run_sft(config_for(demos_dir))
    config = config_for(demos_dir, init_from=str(first), output_dir=str(demos_dir / "second"), num_steps=1, lr=1e-9)
    second = OpenVLAOFTPolicy.from_pretrained(run_sft(config)).model.state_dict()
    for name, value in OpenVLAOFTPolicy.from_pretrained(first).model.state_dict().items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)


def test_unfinished_run_is_not_overwritten(demos_dir):
    def interrupt(scalars):
        raise KeyboardInterrupt

    config = config_for(demos_dir, log_every_steps=2, checkpoint_every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        run_sft(config, on_log=interrupt)
    with pytest.raises(FileExistsError, match="stopped at step 1 of 4: continue it with --resume"):
        run_sft(config)
    resumed = OpenVLAOFTPolicy.from_pretrained(run_sft(config, resume=True)).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    unbroken = OpenVLAOFTPolicy.from_pretrained(run_sft(config)).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


@pytest.mark.parametrize(("done", "written", "now", "refused"), [(3, 6, 2, True), (2, 2, 6, False), (2, 6, 6, True)])
def test_whether_a_run_is_finished_is_for_its_own_settings_to_say(tmp_path, done, written, now, refused):
    config = config_for(tmp_path, num_steps=written).to_dict()
    save_training_state(tmp_path / "run" / STATE_FILE, step=done, config=config)
    config = config_for(tmp_path, num_steps=now)
    with pytest.raises(FileExistsError, match=f"step {done} of {written}") if refused else contextlib.nullcontext():
        refuse_unfinished_run(config)


def test_a_run_over_a_finished_one_is_not_taken_for_it(demos_dir):
    run_sft(config_for(demos_dir, num_steps=1))
    state = demos_dir / "run" / STATE_FILE
    with pytest.raises(DemonstrationError):
        run_sft(config_for(demos_dir, num_steps=1, demos_per_task=9))
    assert state.is_file()  # what is refused replaces nothing

    def interrupt(scalars):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sft(config_for(demos_dir, num_steps=1), on_log=interrupt)
    with pytest.raises(FileNotFoundError, match="Nothing to resume"):
        run_sft(config_for(demos_dir, num_steps=1), resume=True)


def test_other_demonstrations_in_the_folder_are_refused_on_resuming(demos_dir):
    config = config_for(demos_dir, num_steps=1)
    run_sft(config)
    run_sft(config, resume=True)
    write_demo_file(demos_dir / "lift_demo.hdf5", "lift the cube", [12, 9, 20], seed=5)
    with pytest.raises(ValueError, match="other demonstrations than those in"):
        run_sft(config, resume=True)


def test_paths_mean_the_same_with_and_without_workers(demos_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(demos_dir))
    monkeypatch.chdir(demos_dir)
    save_training_state(demos_dir / "out" / STATE_FILE, step=1, config=config_for(demos_dir).to_dict())
    for num_workers in (0, 2):
        with pytest.raises(FileExistsError, match="~/out holds a run that stopped at step 1"):
            run_sft(config_for(demos_dir, output_dir="~/out", num_workers=num_workers))
    shutil.rmtree(demos_dir / "out")
    config = config_for(demos_dir, output_dir="~/out", num_steps=1)
    assert run_sft(dataclasses.replace(config, demos_dir="~")) == demos_dir / "out" / "checkpoint"
    assert not (demos_dir / "~").exists()
    saved = torch.load(demos_dir / "out" / STATE_FILE)["config"]
    assert (saved["demos_dir"], saved["output_dir"]) == (str(demos_dir), str(demos_dir / "out"))


def test_model_paths_are_made_absolute_and_hub_ids_are_not(demos_dir, monkeypatch):
    monkeypatch.chdir(demos_dir)
    (demos_dir / "weights").mkdir()
    config = absolute_paths(config_for(demos_dir, model_path="weights", cache_dir="cache"))
    assert (config.model_path, config.cache_dir) == (str(demos_dir / "weights"), str(demos_dir / "cache"))
    assert absolute_paths(config_for(demos_dir, model_path="owner/name")).model_path == "owner/name"
    with pytest.raises(FileNotFoundError, match=r"No folder of demonstrations \./gone"):
        absolute_paths(dataclasses.replace(config, demos_dir="./gone"))


def test_adapters_that_were_interrupted_give_the_same_checkpoint(demos_dir):
    base = run_sft(config_for(demos_dir, num_steps=1, output_dir=str(demos_dir / "base")))
    settings = {"model_path": str(base), "lora": {"rank": 4, "alpha": 4}, "checkpoint_every_steps": 1}
    config = config_for(demos_dir, **settings)

    def interrupt(scalars):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sft(config, on_log=interrupt)
    assert read_progress(demos_dir / "run" / "training_state.pt").step == 1
    resumed = OpenVLAOFTPolicy.from_pretrained(run_sft(config, resume=True)).model.state_dict()
    unbroken = run_sft(config_for(demos_dir, output_dir=str(demos_dir / "unbroken"), **settings))
    expected = OpenVLAOFTPolicy.from_pretrained(unbroken).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    start = OpenVLAOFTPolicy.from_pretrained(base).model.state_dict()
    assert not all(torch.equal(value, start[name]) for name, value in expected.items())


def toy_config(folder, **changes):
    """Demonstrations of the toy suite under the tasks' names, and an evaluation after each step."""
    write_demo_file(folder / "go_left_demo.hdf5", "go to the left target", [12, 12], size=96)
    settings = {"tasks": ["go_left"], "suite": "tests.toy_suite:SUITE", "checkpoint_every_steps": 1, "batch_size": 1}
    evaluation = {"every_steps": 1, "num_scenes_per_task": 1, "env_config": {"tolerance": 0.4}}
    return config_for(folder, **(settings | {"evaluation": evaluation} | changes))


def test_the_best_policy_is_the_checkpoint(tmp_path, monkeypatch):
    config = toy_config(tmp_path, num_steps=4)
    results = iter([0.25, 0.5, 0.5, 0.25])
    weights = []

    def play(self, trainer):
        weights.append(trainer.model.language_model.lm_head.weight.detach().clone())
        return next(results)

    monkeypatch.setattr(BestCheckpoint, "_play", play)
    path = run_sft(config)
    saved = OpenVLAOFTPolicy.from_pretrained(path).model.language_model.lm_head.weight
    assert torch.equal(saved, weights[1])  # the first of the two best
    state = torch.load(tmp_path / "run" / "training_state.pt")
    assert state["best"] == {"step": 2, "success_rate": 0.5}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.value for point in events.Scalars("sft/evaluation_success_rate")] == [0.25, 0.5, 0.5, 0.25]
    assert [point.value for point in events.Scalars("sft/evaluation_best")] == [0.25, 0.5, 0.5, 0.5]


def test_evaluation_in_the_simulator_changes_no_weights(tmp_path):
    with_evaluation = run_sft(toy_config(tmp_path, num_steps=2, ema_decay=0.9))
    state = torch.load(tmp_path / "run" / "training_state.pt")
    assert 0.0 <= state["best"]["success_rate"] <= 1.0
    assert (with_evaluation / "config.json").is_file()
    shutil.rmtree(tmp_path / "run")
    config = dataclasses.replace(toy_config(tmp_path, num_steps=2, ema_decay=0.9), evaluation=None)
    run_sft(config)
    without = torch.load(tmp_path / "run" / "training_state.pt")
    assert all(torch.equal(value, without["model"][name]) for name, value in state["model"].items())
    assert all(torch.equal(value, without["ema"][name]) for name, value in state["ema"].items())


def test_settings_of_the_simulator_are_checked_before_demonstrations_are_read(tmp_path, monkeypatch):
    def read(config):
        raise AssertionError("demonstrations were read")

    monkeypatch.setattr("rllib_vla.sft.main.read_training_data", read)
    monkeypatch.setattr("rllib_vla.sft.main.open_reader", read)
    evaluation = {"num_scenes_per_task": 1, "env_config": {"tolerence": 0.4}}
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match=r"'tolerence'.*did you mean 'tolerance'"):
            run_sft(toy_config(tmp_path, num_workers=num_workers, evaluation=evaluation))


def test_best_of_other_scenes_is_forgotten_on_resuming(tmp_path, monkeypatch):
    monkeypatch.setattr(BestCheckpoint, "_play", lambda self, trainer: 0.5)
    config = toy_config(tmp_path, num_steps=4)

    def interrupt(scalars):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sft(dataclasses.replace(config, log_every_steps=2), on_log=interrupt)
    evaluation = dataclasses.replace(config.evaluation, num_scenes_per_task=2)
    monkeypatch.setattr(BestCheckpoint, "_play", lambda self, trainer: 0.25)
    run_sft(dataclasses.replace(config, evaluation=evaluation), resume=True)
    assert torch.load(tmp_path / "run" / "training_state.pt")["best"] == {"step": 2, "success_rate": 0.25}


def test_cached_frames_and_listed_demonstrations_give_the_same_checkpoint(demos_dir):
    listed = {"lift": ["demo_2", "demo_0"], "push": ["demo_11"]}
    first = run_sft(config_for(demos_dir, demos=listed, demos_per_task=None, cache_dir=str(demos_dir / "cache")))
    again = run_sft(config_for(demos_dir, demos=listed, demos_per_task=None, output_dir=str(demos_dir / "other")))
    expected = OpenVLAOFTPolicy.from_pretrained(first).model.state_dict()
    actual = OpenVLAOFTPolicy.from_pretrained(again).model.state_dict()
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_gives_the_same_weights(demos_dir):
    """Kills the process without warning while it trains, in a step or while it writes its state."""
    settings = {"num_steps": 40, "checkpoint_every_steps": 1, "ema_decay": 0.9, "log_every_steps": 10}
    config = config_for(demos_dir, num_threads=1, **settings)
    file = demos_dir / "sft.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    command = [*RLLIB, "sft", str(file)]
    state = demos_dir / "run" / "training_state.pt"
    steps = []
    for resume in ([], ["--resume"]):
        process = subprocess.Popen(command + resume, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wanted = 8 + (steps[-1] if steps else 0)
        deadline = time.monotonic() + 1800
        while (read_progress(state) or (0,))[0] < wanted:
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        process.stdout.close()
        steps.append(read_progress(state).step)
    assert 8 <= steps[0] < steps[1] < 40
    assert not (demos_dir / "run" / "checkpoint").exists()
    resumed = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming at step {steps[1]} of 40" in resumed.stderr
    unbroken = run_sft(config_for(demos_dir, num_threads=1, output_dir=str(demos_dir / "unbroken"), **settings))
    for name in ("model", "ema"):
        expected = torch.load(demos_dir / "unbroken" / "training_state.pt")[name]
        actual = torch.load(state)[name]
        assert all(torch.equal(value, actual[key]) for key, value in expected.items())
    expected, actual = (folder / "model.safetensors" for folder in (unbroken, demos_dir / "run" / "checkpoint"))
    assert expected.read_bytes() == actual.read_bytes()


@pytest.mark.slow
def test_two_workers_of_ray_train_give_the_weights_of_one_process(demos_dir, ray_session):
    settings = {"num_steps": 6, "batch_size": 4, "micro_batch_size": 1, "num_threads": 1}
    alone = run_sft(config_for(demos_dir, **settings))
    together = run_sft(config_for(demos_dir, num_workers=2, output_dir=str(demos_dir / "two"), **settings))
    expected = torch.load(demos_dir / "run" / "training_state.pt")
    actual = torch.load(demos_dir / "two" / "training_state.pt")
    assert actual["step"] == 6
    for name, value in expected["model"].items():
        torch.testing.assert_close(actual["model"][name], value, rtol=0, atol=2e-5, msg=name)
    first, second = (OpenVLAOFTPolicy.from_pretrained(path) for path in (alone, together))
    assert first.norm_stats == second.norm_stats


@pytest.mark.slow
def test_mistake_in_a_worker_is_reported_in_its_own_words(demos_dir, ray_session):
    with h5py.File(demos_dir / "push_demo.hdf5", "r+") as file:
        file["data/demo_3/actions"][5, 2] = float("nan")
    with pytest.raises(
        WorkerError, match=r"failed in a worker: .*push_demo.hdf5:/data/demo_3/actions is not finite at step 5"
    ) as caught:
        run_sft(config_for(demos_dir, num_workers=2))
    assert caught.value.is_input


def test_mistakes_are_found_before_workers_are_started(demos_dir):
    with pytest.raises(DemonstrationError, match="has 3 demonstrations, 9 were asked for"):
        run_sft(config_for(demos_dir, num_workers=2, demos_per_task=9))
    evaluation = {"suite": "libero_blok"}
    with pytest.raises(ValueError, match="did you mean 'libero_blocks'"):
        run_sft(config_for(demos_dir, num_workers=2, evaluation=evaluation))
