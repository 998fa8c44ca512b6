import pytest

from rllib_vla.cli.problems import InputError
from rllib_vla.cli.search_space import merge
from rllib_vla.cli.yaml_lines import parse_yaml
from rllib_vla.experiments.reader import experiment_text, load_experiment, parse_experiment
from tests.rllib_vla.sft.conftest import write_demo_file


def problems(text: str, overrides=None) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml", overrides)
    return [str(problem) for problem in caught.value.problems]


def with_stages(text: str, stages: str) -> str:
    """The experiment with further stages before the last one."""
    return text.replace("    after:", f"{stages}    after:")


def test_arms_are_the_stages_with_their_changes_merged_in(spec):
    assert [arm.label for arm in spec.arms] == ["the paper's", "T = 1"]
    training = [arm.stages["rl"].settings["config"]["training"] for arm in spec.arms]
    assert training == [{"minibatch_size": 8}, {"minibatch_size": 8, "temperature": 1.0}]
    assert spec.arms[0].stages["after"].inputs == {"policy": "rl"}


def test_settings_of_the_command_line_reach_every_arm(text):
    document = parse_yaml(text, source="toy.yaml")
    spec = parse_experiment(document, "toy.yaml", {"after": {"num_scenes": 1}})
    assert [arm.stages["after"].settings["num_scenes"] for arm in spec.arms] == [1, 1]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("title:", "titel:", "toy.yaml:3: toy.titel: unknown key; did you mean 'title'?"),
        ("kind: grpo", "kind: grop", "toy.yaml:9: rl.kind: unknown kind; did you mean 'grpo'?"),
        ("policy: rl", "policy: rll", "toy.yaml:14: after.policy: no earlier stage 'rll' in this arm; did you mean"),
        ("minibatch_size: 8", "minibatch_siz: 8", "toy.yaml:13: rl.config.training.minibatch_siz: unknown key"),
        ("temperature: 1.0", "temperature: -1.5", "toy.yaml:17: rl.config.training.temperature: `temperature` must be"),
        ("num_scenes: 2}", "num_scenes: 5}", "go_left has 4 scenes in split 'eval', not 5"),
        (
            "cold: {label: T = 1, rl:",
            "cold: {label: T = 1, lr:",
            "toy.yaml:17: toy.arms.cold.lr: no stage of this name",
        ),
        ("baseline: paper", "baseline: papr", "toy.report.baseline: no arm of this name; did you mean 'paper'?"),
        ("after: after", "after: rl", "toy.report.after: no evaluation stage of this name"),
        ("stop: {training_iteration: 1}", "stop: {}", "toy.yaml:12: rl.stop: names no criterion"),
        ("{training: {m", "{seed: 3, training: {m", "rl.config.seed: does not belong here: see 'seeds'"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "toy.seeds: seeds are whole numbers from 0"),
        (
            "{kind: evaluate, policy: rl,",
            "{kind: evaluate, videos: fialed, policy: rl,",
            "after.videos: must be 'failed'",
        ),
        (
            "{kind: evaluate, policy: rl,",
            '{kind: evaluate, videos: "scenes:0,2", policy: rl,',
            "after.videos: scene 2 cannot be recorded: it is not played, the last one is 1",
        ),
        ("{kind: evaluate, policy: rl,", "{kind: evaluate, num_simulators: -1, policy: rl,", "must not be negative"),
        (
            "baseline: paper,",
            "unseen_tasks: [go_up],",
            "unseen_tasks[0]: 'before' does not play this task; valid: go_left",
        ),
    ],
)
def test_mistakes_are_named_with_their_place(text, before, after, message):
    assert before in text
    found = problems(text.replace(before, after))
    assert any(message in problem for problem in found), found


def test_all_mistakes_are_told_at_once(text):
    found = problems(text.replace("title:", "titel:").replace("kind: grpo", "kind: grop"))
    assert len(found) >= 3  # unknown key, missing key, unknown kind (and what follows from it)


def test_a_policy_that_is_not_there(text, tmp_path):
    found = problems(text.replace(str(tmp_path / "policy" / "weights"), "./nowhere"))
    assert any("no checkpoint directory at ./nowhere" in problem for problem in found)


def test_an_unknown_stage_on_the_command_line(text):
    assert "--config: afer: no stage of this name; did you mean 'after'?" in problems(text, {"afer": {}})


def test_a_stage_is_left_out_on_the_command_line(text):
    spec = parse_experiment(
        parse_yaml(text.replace("after: after, ", ""), source="toy.yaml"), "toy.yaml", {"after": None}
    )
    assert list(spec.arms[0].stages) == ["before", "rl"]


def test_a_stage_s_settings_on_the_command_line_are_a_mapping(text):
    assert "--config: rl: expected a mapping of settings, or null to leave the stage out" in problems(text, {"rl": 5})


def test_before_and_after_play_under_the_same_settings(text):
    changed = {"rl": {"config": {"environment": {"env_config": {"tolerance": 0.4, "tasks": ["go_left"]}}}}}
    (problem, _) = problems(text, changed)
    assert problem.startswith(
        "toy.yaml:18: toy.report.after: arm 'paper' is evaluated under other settings than before, 'tolerance': "
        "0.4 instead of 0.2;"
    )
    same = {stage: {"env_config": {"tolerance": 0.4}} for stage in ("before", "after")}
    parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml", changed | same)


def test_a_search_is_refused(text):
    found = problems(text.replace("temperature: 1.0", "temperature: {grid_search: [1.0, 1.6]}"))
    assert any("an arm of the experiment is the place for each" in problem for problem in found)


def test_merge_replaces_everything_but_mappings():
    assert merge({"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}}) == {"a": {"b": [3], "c": 2}}


CHILD = """
child:
  extends: toy.yaml
  title: Another one
  stages:
    middle: {kind: evaluate, policy: POLICY, suite: "tests.toy_suite:SUITE", num_scenes: 1}
    after: {num_scenes: 1}
    before: null
  arms:
    hot: {rl: {config: {training: {temperature: 2.0}}}}
  report: {before: middle, after: after}
"""


@pytest.fixture
def child(text, tmp_path):
    """A file that extends the toy experiment in another folder."""
    (tmp_path / "toy.yaml").write_text(text)
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "child.yaml"
    policy = str(tmp_path / "policy" / "weights")
    path.write_text(CHILD.replace("extends: toy.yaml", "extends: ../toy.yaml").replace("POLICY", policy))
    return path


def test_an_experiment_starts_from_another_one(child):
    spec = load_experiment(child)
    assert (spec.name, spec.title, spec.question, spec.seeds) == ("child", "Another one", "Does it work?", (0, 1))
    (arm,) = spec.arms  # replaced, not merged
    assert arm.name == "hot"
    assert list(arm.stages) == ["rl", "middle", "after"]  # a new stage stands in front of what follows it
    assert arm.stages["after"].settings["num_scenes"] == 1
    assert arm.stages["after"].inputs == {"policy": "rl"}
    assert arm.stages["rl"].settings["config"]["training"] == {"minibatch_size": 8, "temperature": 2.0}
    assert (spec.report.before, spec.report.baseline, spec.report.paper) == ("middle", None, None)


def test_the_report_shows_both_files(child, text):
    shown = experiment_text(child)
    assert shown.startswith(child.read_text())
    assert shown.endswith(f"# toy.yaml, which it extends:\n{text}")
    assert experiment_text(child.parents[1] / "toy.yaml") == text


def test_mistakes_in_an_extended_experiment_are_named_with_its_place(child):
    base = child.parents[1] / "toy.yaml"
    base.write_text(base.read_text().replace("minibatch_size: 8", "minibatch_siz: 8"))
    with pytest.raises(InputError, match=r"toy\.yaml:13: rl\.config\.training\.minibatch_siz: unknown key"):
        load_experiment(child)
    base.write_text("toy:\n  extends: other.yaml\n")
    with pytest.raises(InputError, match="extends another file itself"):
        load_experiment(child)
    base.unlink()
    with pytest.raises(InputError, match=r"child\.yaml:3: child\.extends: cannot read .*toy\.yaml"):
        load_experiment(child)


def test_what_a_stage_extends_may_extend_another_file(text, tmp_path):
    """As when the file is run itself; relative paths start from the file that they stand in."""
    (tmp_path / "grpo").mkdir()
    rest = "  run: GRPO\n  config: {training: {lr: 1e-3, temperature: 1.2}}\n"
    (tmp_path / "grpo" / "base.yaml").write_text(f"base:\n{rest}")
    (tmp_path / "grpo" / "one.yaml").write_text("one:\n  extends: base.yaml\n  config: {training: {lr: 1e-4}}\n")
    (tmp_path / "toy.yaml").write_text(text.replace("kind: grpo", "kind: grpo\n      extends: grpo/one.yaml"))
    (tmp_path / "sub").mkdir()
    child = tmp_path / "sub" / "child.yaml"
    child.write_text("child:\n  extends: ../toy.yaml\n")
    for path in (tmp_path / "toy.yaml", child):
        spec = load_experiment(path)
        training = [arm.stages["rl"].settings["config"]["training"] for arm in spec.arms]
        assert training[0] == {"minibatch_size": 8, "lr": 1e-4, "temperature": 1.2}
        assert training[1] == {"minibatch_size": 8, "lr": 1e-4, "temperature": 1.0}
    (tmp_path / "grpo" / "base.yaml").write_text(f"base:\n{rest}".replace("1.2", "-1.2"))
    with pytest.raises(InputError, match=r"base\.yaml:3: rl\.config\.training\.temperature"):
        load_experiment(child)


def test_what_is_absent_is_told_once(text):
    stages = "    sft: {kind: sft, demos: ./nowhere}\n    again: {kind: sft, demos: ./nowhere, config: {seed: 1}}\n"
    found = problems(with_stages(text, stages))
    assert len([problem for problem in found if "no folder ./nowhere" in problem]) == 1
    assert any("again.config.seed: does not belong here" in problem for problem in found)


def test_given_demonstrations_must_have_the_tasks(text, tmp_path):
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [9, 9])
    stage = f"    sft: {{kind: sft, demos: {tmp_path}, config: {{tasks: [lift], demos_per_task: 2}}}}\n"
    text = with_stages(text, stage)
    parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml")
    (few,) = problems(text.replace("demos_per_task: 2", "demos_per_task: 3"))
    assert "has 2 demonstrations, 3 were asked for" in few
    (other,) = problems(text.replace("tasks: [lift]", "tasks: [push]"))
    assert "'push'" in other


def test_experts_wander_for_a_chunk_at_most(text, monkeypatch):
    monkeypatch.setattr("rllib_vla.experiments.kinds.demos.expert_suites", lambda: ["tests.toy_suite:SUITE"])
    stage = "    demos: {kind: demos, suite: 'tests.toy_suite:SUITE', tasks: [go_left], wander_steps: 8}\n"
    text = with_stages(text, stage)
    parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml")
    (found,) = problems(text.replace("wander_steps: 8", "wander_steps: 9"))
    assert "demos.wander_steps: must be at most 8, the environment's chunk size, got 9" in found
    (found,) = problems(text.replace("wander_steps: 8", "env_config: {tolerence: 1}"))
    assert "did you mean 'tolerance'" in found


def test_motion_is_asked_only_of_suites_that_tell(text, monkeypatch):
    text = text.replace("num_scenes: 2}\n    rl", "num_scenes: 2, object_motion: true}\n    rl")
    parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml")
    monkeypatch.delattr("tests.toy_suite.ToyEnv.object_state")
    (problem,) = problems(text)
    assert "toy.yaml:7: before.object_motion: suite 'tests.toy_suite:SUITE' does not tell where objects are" in problem


def test_fine_tuning_has_all_settings_of_its_file(text, tmp_path):
    """Also `policy`, the changes to the preset, which has the name of an input of the stage."""
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [9])
    (tmp_path / "sft.yaml").write_text(
        "demos_dir: elsewhere\noutput_dir: out\ntasks: [lift]\npolicy: {use_proprio: true}\nseed: 7\nlr: 1e-3\n"
    )
    changes = "config: {policy: {hidden_size: 96}}"
    stage = f"    sft: {{kind: sft, demos: {tmp_path}, extends: {tmp_path}/sft.yaml, {changes}}}\n"
    spec = parse_experiment(parse_yaml(with_stages(text, stage), source="toy.yaml"), "toy.yaml")
    for arm in spec.arms:
        assert arm.stages["sft"].inputs == {"demos": str(tmp_path)}
        assert arm.stages["sft"].settings == {
            "tasks": ["lift"],
            "policy": {"use_proprio": True, "hidden_size": 96},
            "lr": 1e-3,
        }
        assert "policy" not in arm.stages["rl"].settings | arm.stages["after"].settings
