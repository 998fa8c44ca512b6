import imageio_ffmpeg
import numpy as np
import pytest
import torch

import envs
from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy, VisionTowerConfig
from rllib_vla.evaluation.batched_policy import BATCH_SIZE
from rllib_vla.evaluation.episode_log import LOG_FILE, EpisodeLog
from rllib_vla.evaluation.evaluator import EvaluationError, evaluate_policy
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.evaluation.report import EvaluationReport
from tests.toy_suite import FLEETING_SUITE, FleetingToyEnv

TOY = "tests.toy_suite:SUITE"


@pytest.fixture
def policy():
    """A very small random policy with statistics from -1 to 1."""
    tower = VisionTowerConfig(16, 2, 2, 32)
    config = OpenVLAOFTConfig.preset(
        "tiny", featurizer=tower, fused_featurizer=tower, patch_size=24, hidden_size=32, intermediate_size=48
    )
    limits = {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False], "mean": [0.0] * 7}
    torch.manual_seed(0)
    policy = OpenVLAOFTPolicy.from_scratch(config, ["go to the left target"], {"toy": {"action": limits}})
    torch.nn.init.normal_(policy.model.language_model.lm_head.weight, std=0.5)  # opinions, so that T matters
    return policy


def go(policy, velocity):
    """Makes the model answer with one velocity whatever it sees."""
    bins = policy.action_tokenizer.encode(np.tile(np.float32([*velocity, 0, 0, 0, 0, 1]), 8))
    logits = torch.nn.functional.one_hot(torch.from_numpy(bins), 256).float() * 50
    policy.model.forward = lambda images, **inputs: logits.expand(len(images), -1, -1)


def play_alone(scene, velocity):
    """Success and steps of a constant velocity, by stepping the environment directly."""
    env = envs.make_env(TOY)
    env.reset(options={"scene": scene})
    steps, ended = 0, False
    while not ended:
        _, _, success, truncated, info = env.step(np.tile(np.float32([*velocity, 0, 0, 0, 0, 0]), (8, 1)))
        steps += info["num_control_steps"]
        ended = success or truncated
    return success, steps


def outcomes(report):
    return [(e.task, e.scene_index, e.repeat, e.success, e.num_control_steps) for e in report.episodes]


def test_results_are_those_of_the_environment_in_the_order_of_the_protocol(policy):
    go(policy, (0.75, 0.0))
    protocol = EvaluationProtocol(TOY)
    report = evaluate_policy(policy, protocol, slots_per_simulator=3)
    expected = [(scene.task, scene.index, 0, *play_alone(scene, (0.7490, 0.0))) for scene, _ in protocol.episodes()]
    assert outcomes(report) == expected
    assert {e.success for e in report.episodes} == {True, False}
    assert report.per_task["go_left"].num_successes == 0


def test_greedy_and_sampled_episodes_do_not_depend_on_the_batch(policy):
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=2, repeats=2)
    for temperature in (None, 1.5):
        alone, together = (
            outcomes(evaluate_policy(policy, protocol, temperature=temperature, slots_per_simulator=n)) for n in (1, 8)
        )
        assert alone == together


def test_repeats_differ_only_when_sampling(policy):
    seen = {}

    def chunks_of_repeats(temperature):
        model, seen[temperature] = policy.decode, []
        policy.decode = lambda ids: seen[temperature].append(model(ids)) or seen[temperature][-1]
        protocol = EvaluationProtocol(TOY, tasks=("go_left",), num_scenes_per_task=1, repeats=2)
        evaluate_policy(policy, protocol, temperature=temperature, slots_per_simulator=2)
        policy.decode = model
        return seen[temperature][0]

    first, second = chunks_of_repeats(None)
    assert np.array_equal(first, second)
    first, second = chunks_of_repeats(1.0)
    assert not np.array_equal(first, second)


def test_lost_episodes_are_counted_and_the_others_go_on(policy):
    report = evaluate_policy(policy, EvaluationProtocol(TOY), env_config={"fault": "raise"}, slots_per_simulator=1)
    assert report.num_simulator_failures == 2  # scene 0 of both tasks
    assert [e.scene_index for e in report.episodes] == [1, 2, 3, 1, 2, 3]
    assert "2 episodes were lost" in report.to_markdown()


def test_evaluation_without_any_episode_says_why(policy):
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=1)
    with pytest.raises(EvaluationError, match="the toy simulator broke"):
        evaluate_policy(policy, protocol, env_config={"fault": "raise"}, slots_per_simulator=1)


def test_videos_show_every_control_step_of_failed_episodes_first(policy, tmp_path):
    go(policy, (0.75, 0.0))
    protocol = EvaluationProtocol(TOY)
    report = evaluate_policy(policy, protocol, video_dir=tmp_path, videos=1)
    videos = sorted(tmp_path.glob("*.mp4"))
    assert [v.name.split("_eval")[0] for v in videos] == ["go_left", "go_right"]
    assert videos[0].name.endswith("failure.mp4")
    for video in videos:
        task, index = video.name.split("_eval_")[0], int(video.name.split("_eval_")[1][:2])
        (steps,) = (e.num_control_steps for e in report.episodes if (e.task, e.scene_index) == (task, index))
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
        assert frames == steps + 1
        assert video.with_suffix(".png").is_file()


def test_chunks_that_are_one_motion_are_filmed_whole(policy, tmp_path):
    go(policy, (0.75, 0.0))
    protocol = EvaluationProtocol(FLEETING_SUITE.name, num_scenes_per_task=1)
    num_made = FleetingToyEnv.num_made
    report = evaluate_policy(policy, protocol, slots_per_simulator=8, video_dir=tmp_path, videos=1)
    assert FleetingToyEnv.num_made - num_made <= 2  # one per slot, of which there are few
    assert outcomes(report) == outcomes(evaluate_policy(policy, EvaluationProtocol(TOY, num_scenes_per_task=1)))
    for episode in report.episodes:
        (video,) = tmp_path.glob(f"{episode.task}_eval_00_0_{'success' if episode.success else 'failure'}.mp4")
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
        assert frames == -(-episode.num_control_steps // 8) + 1


def test_forward_passes_have_one_shape_whatever_waits(policy):
    shapes, forward = set(), policy.model.forward

    def watched(**inputs):
        shapes.add(tuple(tuple(value.shape) for value in inputs.values() if value is not None))
        return forward(**inputs)

    policy.model.forward = watched
    for slots in (1, 3, 16):
        evaluate_policy(policy, EvaluationProtocol(TOY, num_scenes_per_task=2), slots_per_simulator=slots)
    (shape,) = shapes
    assert shape[0][0] == BATCH_SIZE


def kill_after(policy, num_episodes, folder, **settings):
    """Evaluates until so many episodes are finished."""

    def kill(done, of, result):
        if done == num_episodes:
            raise KeyboardInterrupt

    log = EpisodeLog(folder, {"policy": "a"})
    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(policy, EvaluationProtocol(TOY), log=log, on_episode=kill, **settings)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_killed_evaluation_goes_on_and_gives_the_same_file(policy, tmp_path, temperature):
    protocol, settings = EvaluationProtocol(TOY), {"temperature": temperature, "slots_per_simulator": 3}
    unbroken = evaluate_policy(policy, protocol, **settings).save(tmp_path / "unbroken")
    kill_after(policy, 3, tmp_path / "broken", **settings)
    with (tmp_path / "broken" / LOG_FILE).open("a") as file:
        file.write('{"task": "go_le')  # cut off by the kill
    log = EpisodeLog(tmp_path / "broken", {"policy": "a"})
    assert len(log.results) == 3
    told = []
    settings["on_episode"] = lambda done, of, result: told.append((done, of))
    broken = evaluate_policy(policy, protocol, log=log, **settings).save(tmp_path / "broken")
    assert told == [(done, 8) for done in range(4, 9)]
    assert (broken / "evaluation.json").read_bytes() == (unbroken / "evaluation.json").read_bytes()
    assert len(EpisodeLog(tmp_path / "broken", {"policy": "a"}).results) == 8


def test_a_finished_evaluation_plays_nothing(policy, tmp_path):
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=1)
    first = evaluate_policy(policy, protocol, log=EpisodeLog(tmp_path, {}))
    policy.model.forward = None
    assert evaluate_policy(policy, protocol, log=EpisodeLog(tmp_path, {})) == first


def test_a_folder_of_another_evaluation_is_refused(tmp_path):
    EpisodeLog(tmp_path, {"policy": "a", "seed": 0})
    with pytest.raises(ValueError, match=r"holds another evaluation \(policy differ"):
        EpisodeLog(tmp_path, {"policy": "b", "seed": 0})


@pytest.mark.parametrize(("videos", "outcomes_filmed"), [("failed", {"failure"}), ("all", {"failure", "success"})])
def test_chosen_videos(policy, tmp_path, videos, outcomes_filmed):
    go(policy, (0.75, 0.0))
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=2)
    report = evaluate_policy(policy, protocol, video_dir=tmp_path, videos=videos)
    filmed = [path.stem.rsplit("_", 1)[1] for path in tmp_path.glob("*.mp4")]
    assert set(filmed) == outcomes_filmed
    assert len(filmed) == sum(videos == "all" or not e.success for e in report.episodes)


def test_videos_of_chosen_scenes(policy, tmp_path):
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=3, repeats=2)
    evaluate_policy(policy, protocol, video_dir=tmp_path, videos=(0, 2))
    filmed = sorted(path.stem.rsplit("_", 1)[0] for path in tmp_path.glob("*.mp4"))
    assert filmed == [f"{task}_eval_{i:02d}_{r}" for task in ("go_left", "go_right") for i in (0, 2) for r in (0, 1)]


def test_a_scene_to_film_must_be_played(policy):
    with pytest.raises(ValueError, match="scene 2 cannot be recorded: it is not played, the last one is 1"):
        evaluate_policy(policy, EvaluationProtocol(TOY, num_scenes_per_task=2), videos=(0, 2))


def test_videos_that_are_there_are_kept(policy, tmp_path):
    protocol = EvaluationProtocol(TOY, tasks=("go_left",), num_scenes_per_task=1)
    evaluate_policy(policy, protocol, video_dir=tmp_path, videos="all")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    evaluate_policy(policy, protocol, video_dir=tmp_path, videos="all")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_object_motion_is_recorded_and_changes_no_result(policy, tmp_path):
    go(policy, (-0.75, 0.0))
    protocol = EvaluationProtocol(TOY)
    plain = evaluate_policy(policy, protocol)
    report = evaluate_policy(policy, protocol, object_motion=True, log=EpisodeLog(tmp_path, {}))
    assert outcomes(report) == outcomes(plain)
    for episode in report.episodes:
        assert episode.motion.pushed > 0  # to the right of -0.3
        assert episode.motion.dragged > 0  # to the left of it, where the toy suite calls it grasped
        assert (episode.motion.carried, episode.motion.max_height) == (0, 0)
    assert EvaluationReport.load(report.save(tmp_path)) == report
    logged = {(e.task, e.scene_index): e for e in EpisodeLog(tmp_path, {}).results}
    assert logged == {(e.task, e.scene_index): e for e in report.episodes}
    assert "| task (successful episodes) | carried |" in report.to_markdown()


def test_plain_openvla_answers_token_by_token_whatever_waits(autoregressive_toy_policy_dir):
    policy = OpenVLAOFTPolicy.from_pretrained(autoregressive_toy_policy_dir)
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=1)
    alone, together = (
        evaluate_policy(policy, protocol, temperature=1.0, slots_per_simulator=slots) for slots in (1, 16)
    )
    assert outcomes(alone) == outcomes(together)


def test_progress_is_told(policy):
    told = []
    protocol = EvaluationProtocol(TOY, num_scenes_per_task=2)
    evaluate_policy(policy, protocol, on_episode=lambda done, of, result: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_scenes_per_task": 5}, "go_left has 4 scenes in split 'eval', not 5"),
        ({"tasks": ("go_lef",)}, "did you mean 'go_left'"),
        ({"split": "evl"}, "did you mean 'eval'"),
    ],
)
def test_protocol_names_what_does_not_exist(wrong, message):
    with pytest.raises(ValueError, match=message):
        EvaluationProtocol(TOY, **wrong).episodes()


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        EvaluationProtocol(TOY, repeats=0)
    with pytest.raises(ValueError, match="num_scenes_per_task must be at least 1"):
        EvaluationProtocol(TOY, num_scenes_per_task=0)


def test_episodes_are_ordered_by_task_scene_and_repeat():
    episodes = EvaluationProtocol(TOY, num_scenes_per_task=2, repeats=2).episodes()
    keys = [(scene.task_id, scene.index, repeat) for scene, repeat in episodes]
    assert keys == [(t, i, r) for t in (0, 1) for i in (0, 1) for r in (0, 1)]
    assert {scene.split for scene, _ in episodes} == {"eval"}


def test_temperature_must_be_positive(policy):
    with pytest.raises(ValueError, match="temperature must be positive"):
        evaluate_policy(policy, EvaluationProtocol(TOY), temperature=0.0)
