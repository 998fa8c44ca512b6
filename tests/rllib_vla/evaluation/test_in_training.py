import math

from envs import list_scenes
from rllib_vla.env_runners.group import GroupRequest
from rllib_vla.evaluation.in_training import PlayedEpisode, _summarize
from tests.toy_suite import SUITE


def played(outcomes):
    scenes = {scene.task: scene for scene in list_scenes(SUITE.name, "eval")}
    return [
        PlayedEpisode(GroupRequest(i, scenes[task], 1, 0), success, 10, None)
        for i, (task, success) in enumerate(outcomes)
    ]


def test_unseen_tasks_are_reported_apart():
    episodes = played([("go_left", True), ("go_left", True), ("go_right", True), ("go_right", False)])
    assert _summarize(episodes)["success_rate"] == 0.75
    assert "unseen_success_rate" not in _summarize(episodes)
    result = _summarize(episodes, ["go_right"])
    assert (result["seen_success_rate"], result["unseen_success_rate"], result["success_rate"]) == (1.0, 0.5, 0.75)
    assert math.isnan(_summarize([], ["go_right"])["unseen_success_rate"])
