"""GRPO's loop in one process with runner and object store that behave like remote ones.

Calls to the runner wait in a queue, as those to an actor do, and are executed in order when somebody asks for results:
a round that was started before an update is played by the weights from before it.
"""

import pickle
from collections import deque

import ray
from ray.rllib.utils.actor_manager import RemoteCallResults, ResultOrError
from ray.rllib.utils.metrics import LEARNER_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_vla import metrics as names
from rllib_vla.algorithms.grpo import GRPO
from rllib_vla.env_runners.sampling_rounds import SamplingRounds
from rllib_vla.env_runners.scene_sampler import SceneSampler
from rllib_vla.logging.iteration_progress import IterationProgress
from tests.rllib_vla.toy import make_learner, make_runner


class Ref:
    """An object in the store: whoever gets it has a copy of his own."""

    def __init__(self, value):
        self.data = pickle.dumps(value)


def replace_object_store(monkeypatch) -> None:
    """Lets `ray.put` and `ray.get` work without Ray."""
    monkeypatch.setattr(ray, "ObjectRef", Ref)
    monkeypatch.setattr(ray, "put", Ref)
    monkeypatch.setattr(ray, "get", lambda ref: pickle.loads(ref.data))


class QueuedRunner:
    """What GRPO uses of an EnvRunnerGroup, with one runner behind a queue."""

    def __init__(self, config):
        self.runner = make_runner(config)
        self.runner.worker_index = 1
        self.local_env_runner = None
        self._queue = deque()

    def num_remote_env_runners(self):
        return 1

    def healthy_env_runner_ids(self):
        return [1]

    def num_in_flight_async_reqs(self, tag):
        return sum(has_result for _, has_result in self._queue)

    def foreach_env_runner_async(self, func, tag, remote_worker_ids):
        self._queue.append((func, True))
        return 1

    def fetch_ready_async_reqs(self, *, tags, timeout_seconds):
        return [(1, result) for result in self._work()]

    def foreach_env_runner(self, func, *, local_env_runner, timeout_seconds=None):
        self._queue.append((func, False))
        assert timeout_seconds == 0.0  # the loop itself must not wait for a runner that samples
        return []

    def _work(self):
        results = []
        while self._queue:
            func, has_result = self._queue.popleft()
            result = func(self.runner)
            if has_result:
                results.append(result)
        return results


class LocalLearnerGroup:
    """What GRPO uses of a LearnerGroup with a local learner."""

    is_local = True

    def __init__(self, config):
        self._learner = make_learner(config)

    def update(self, *, episodes_refs, **kwargs):
        episodes = [episode for ref in episodes_refs for episode in ray.get(ref)]
        return [self._learner.update(episodes=episodes, **kwargs)]

    def foreach_learner(self, func):
        results = RemoteCallResults()
        results.add_result(None, ResultOrError(result=func(self._learner)), None)
        return results


def make_loop(config) -> GRPO:
    """A `GRPO` object of which `training_step` works, without Ray's processes."""
    config = config.copy(copy_frozen=False)
    config.env_runners(num_env_runners=1).validate()
    loop = object.__new__(GRPO)
    loop.config = config
    loop.metrics = MetricsLogger(root=True)
    loop.env_runner_group = QueuedRunner(config)
    loop.learner_group = LocalLearnerGroup(config)
    loop.scene_sampler = SceneSampler(config.get_training_scenes(), group_size=config.group_size, seed=config.seed)
    loop.carried_over, loop.num_updates, loop._weights, loop._iteration = deque(), 0, None, 0
    loop._rounds = SamplingRounds(
        loop.env_runner_group, max_staleness=config.max_sampling_staleness, timeout_s=None, restore=lambda: None
    )
    loop._progress = IterationProgress(None)
    return loop


def train(loop) -> dict:
    """One iteration; returns its logged values under "sampling" and the learner's."""
    loop.training_step()
    results = MetricsLogger.peek_results(loop.metrics.reduce())
    return {"sampling": results[names.SAMPLING_RESULTS], "learner": results[LEARNER_RESULTS]["default_policy"]}
