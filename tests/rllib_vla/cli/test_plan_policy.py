"""The policy of a plan is the policy of the run: action space, decoding, prompts and step limits."""

import dataclasses

import pytest

import envs
from envs.robotwin.real.checkout import ROOT_VARIABLE
from policies.openvla_oft import load
from rllib_vla.cli.object_store import check_object_store
from rllib_vla.cli.plan import make_plan
from rllib_vla.cli.plan_policy import read_policy
from rllib_vla.cli.problems import InputError
from tests import toy_suite
from tests.rllib_vla.toy import OwnRLModule, toy_config
from tests.robotwin_checkouts import make_checkout

ROBOTWIN = """\
lift:
  run: GRPO
  env: robotwin2
  config:
    environment: {{env_config: {{robotwin_root: {root}, tasks: [lift_pot]{env}}}}}
    rl_module: {{model_config: {{model_path: {path}}}}}
    env_runners: {{num_simulators_per_env_runner: 1}}
    training: {{group_size: 4, num_groups_per_train_batch: 2}}
    evaluation: {{evaluation_num_scenes_per_task: 1}}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout that no environment variable names."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    return make_checkout(tmp_path / "RoboTwin", "main")


@pytest.fixture
def robotwin(experiment_of, checkout, two_armed_toy_policy_dir):
    """Returns an experiment on the checkout, with more keys of `env_config`."""

    def experiment(env="", path=two_armed_toy_policy_dir):
        return experiment_of(ROBOTWIN.format(root=checkout, env=env, path=path))

    return experiment


def test_a_released_checkpoint_is_planned_as_it_is_played(reference_fixtures, robotwin):
    path = reference_fixtures.parent / "robotwin_bf16"
    plan = make_plan(robotwin(path=path))
    policy = load(path)
    assert (plan.model_config.chunk_size, plan.model_config.action_dim) == (25, 14)
    assert plan.model_config == policy.config
    assert plan.size.num_parameters == sum(p.numel() for p in policy.model.parameters())  # with proprioception
    assert plan.load.rows_per_trajectory == 200 // 25


@pytest.mark.parametrize(
    ("env", "steps"), [("", 200), (", step_limits: robotwin", 400), (", max_control_steps: 50", 50)]
)
def test_step_limits_and_prompts_are_those_of_the_settings(robotwin, env, steps):
    plan = make_plan(robotwin(env))
    assert plan.load.rows_per_trajectory == steps // 25
    assert plan.prompt_length == envs.get_suite("robotwin2").prompt_length
    assert check_object_store(robotwin(env), 1e12) is None


def test_a_preset_has_the_suites_action_space(robotwin):
    plan = make_plan(robotwin(path="somebody/some-model"), "tiny")
    assert (plan.model_config.chunk_size, plan.model_config.action_dim) == (25, 14)
    assert plan.prompt_length == envs.get_suite("robotwin2").prompt_length


@pytest.mark.parametrize("kind", ["simplevla", "openvla"])
def test_step_limits_of_libero(kind):
    from envs.libero.suites.tasks import STEP_LIMITS

    for name, limit in STEP_LIMITS[kind].items():
        assert {info.max_control_steps for info in envs.list_tasks(name, {"step_limits": kind})} == {limit}
    with pytest.raises(ValueError, match="did you mean 'openvla'"):
        envs.list_tasks("libero_10", {"step_limits": "openvl"})


def test_prompts_are_as_long_as_the_suite_pads_them(toy_policy_dir, monkeypatch):
    config = toy_config(toy_policy_dir)
    _, longest = read_policy(config, None)
    for least in (longest - 1, longest + 20):
        suite = dataclasses.replace(toy_suite.SUITE, prompt_length=least)
        monkeypatch.setattr(toy_suite, "SUITE", suite)
        assert read_policy(config, None)[1] == max(longest, least)


def autoregressive(policy_dir):
    return toy_config(policy_dir).rl_module(model_config={"model_path": policy_dir, "decoding": "autoregressive"})


def test_plain_openvla_decides_one_action_per_call(reference_fixtures, autoregressive_toy_policy_dir):
    plain = autoregressive(str(reference_fixtures.parent / "libero_bf16"))
    preset, _ = read_policy(autoregressive(autoregressive_toy_policy_dir), "tiny")
    for policy in (read_policy(plain, None)[0], preset):
        assert (policy.chunk_size, policy.action_dim, policy.decoding) == (1, 7, "autoregressive")


@pytest.mark.parametrize("preset", [None, "tiny"])
def test_somebody_elses_module_has_no_plan_but_runs(experiment_of, toy_policy_dir, preset):
    text = (
        "own: {run: GRPO, env: tests.toy_suite:SUITE, config: {rl_module: {module_class: "
        f"'tests.rllib_vla.toy:{OwnRLModule.__name__}', model_config: {{model_path: {toy_policy_dir}}}}}}}}}"
    )
    experiment = experiment_of(text)
    with pytest.raises(InputError, match="OpenVLA-OFT only, not of `module_class`"):
        make_plan(experiment, preset)
    assert check_object_store(experiment, 1.0) is None
