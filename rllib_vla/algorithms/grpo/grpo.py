"""
Group Relative Policy Optimization (GRPO) for vision-language-action policies
=============================================================================

Several trajectories of the same scene form a group; a trajectory's advantage is its success relative to the
group's. There is no critic. Method: SimpleVLA-RL (arXiv 2509.09674): dynamic sampling, asymmetric clipping and a
high rollout temperature keep exploration alive. This file holds `GRPO`, the training loop; `grpo_config.py` holds
`GRPOConfig`, its settings.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.train._internal.session import _TrainingResult
from ray.tune import PlacementGroupFactory

from rllib_vla import metrics as names
from rllib_vla.algorithms.grpo.grpo_config import GRPOConfig
from rllib_vla.algorithms.grpo.iteration_metrics import PhaseTimes, log_iteration
from rllib_vla.checkpoints import TrainingCheckpointError, explained_write_errors, verify_checkpoint
from rllib_vla.distributed import offload
from rllib_vla.distributed.checkpointing import ShardCheckpoints, local_storage_dir
from rllib_vla.distributed.learner_failure import check_learners, update_learners
from rllib_vla.distributed.placement import bundles, shares_process
from rllib_vla.distributed.weight_sync import PublishedWeights, publish_weights, send_weights
from rllib_vla.env_runners.sampling_rounds import Arrived, SamplingRounds, StoredGroup
from rllib_vla.env_runners.scene_sampler import SceneSampler
from rllib_vla.evaluation.in_training import evaluate_on_env_runners
from rllib_vla.logging.checkpoint_scores import with_flat_keys
from rllib_vla.logging.iteration_progress import IterationProgress

logger = logging.getLogger("ray.rllib")

Components = str | Collection[str] | None  # names of parts of a checkpoint


def _without_nan(results: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the metrics that got no value in this iteration."""
    return {
        name: _without_nan(value) if isinstance(value, dict) else value
        for name, value in results.items()
        if isinstance(value, dict) or value == value
    }


class GRPO(Algorithm):
    """GRPO on groups of simulated trajectories."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: AlgorithmConfig | dict[str, Any]) -> PlacementGroupFactory:
        """Adds one bundle per simulator, and one for both where learner and runner share a GPU."""
        factory: PlacementGroupFactory = super().default_resource_request(config)
        cfg = cls.get_default_config().update_from_dict(config)
        cfg.validate()
        return bundles(factory, cfg)

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        """Never: evaluation uses the training runners, whose simulators are idle during it anyway."""
        return False

    @override(Algorithm)
    def setup(self, config: GRPOConfig) -> None:
        super().setup(config)
        cfg = self.config
        self.scene_sampler = SceneSampler(
            cfg.get_training_scenes(),
            group_size=cfg.group_size,
            seed=cfg.seed or 0,
        )
        self.carried_over: deque[StoredGroup] = deque()
        self.num_updates = 0  # equals the learner's and the runners' weights_seq_no
        self._rounds = SamplingRounds(
            self.env_runner_group,
            max_staleness=cfg.max_sampling_staleness,
            timeout_s=cfg.sample_timeout_s,
            restore=lambda: self.restore_env_runners(self.env_runner_group),
        )
        self._weights: PublishedWeights | None = None
        self._progress = IterationProgress(self.logdir)
        self._updated_this_iteration = False
        self._iteration_in_progress = 0
        self._results_at_start: dict[str, Any] | None = None
        self._shards = ShardCheckpoints(self.learner_group, is_async=cfg.async_checkpoints)
        if shares_process(self.config):
            learner = self.learner_group._learner
            self.env_runner.adopt_module(learner.module[DEFAULT_MODULE_ID], learner.device)
        self._take_turns(to_learner=False)

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        self._shards.complete(wait=False)
        if self.iteration == 0 and self.config.evaluate_at_start and self.config.evaluation_interval:
            self._results_at_start = self.evaluate()
        results = super().step()
        if not self._updated_this_iteration:
            results.pop(LEARNER_RESULTS, None)  # the metrics logger would report NaN for what was not logged
        # Likewise, when carried-over groups were enough, or no group was stale.
        for part in (ENV_RUNNER_RESULTS, names.SAMPLING_RESULTS, LEARNER_RESULTS):
            if part in results:
                results[part] = _without_nan(results[part])
        if self._results_at_start is not None:
            results["evaluation_at_start"] = self._results_at_start
        return results

    @override(Algorithm)
    def training_step(self) -> None:
        """Collects groups with contrast, makes one pass of minibatch steps over them, and syncs the weights.

        With `max_sampling_staleness` the runners already sample for the next iteration while the learner updates.
        """
        start = time.perf_counter()
        self._iteration_in_progress = self.iteration + 1
        self._progress.start_iteration(self.iteration + 1, self.config.num_groups_per_train_batch)
        groups = self._collect_groups()
        self._updated_this_iteration = bool(groups)
        staleness = [self.num_updates - group.weights_seq_no for group in groups]
        self._sample_ahead()
        sampled = time.perf_counter()
        self._progress.start_phase("update")
        if groups:
            self._take_turns(to_learner=True)
            self._update(groups)
            self._take_turns(to_learner=False)
        updated = time.perf_counter()
        if groups:
            self._sync_weights()
        log_iteration(
            self.metrics,
            PhaseTimes(sampled - start, updated - sampled, time.perf_counter() - updated),
            staleness=staleness,
            num_carried_over=len(self.carried_over),
            weights_bytes=self._weights.num_bytes if self._weights else None,
            samples_ahead=self.config.max_sampling_staleness > 0,
        )
        if not groups:
            logger.warning(
                "No group with contrast in this iteration: no update. The policy may be (nearly) perfect or hopeless "
                "on the training scenes; see env_runners/success_rate."
            )

    @property
    def evaluated_iteration(self) -> int:
        """Training iteration after which an evaluation made now takes place; 0 before the first.

        `iteration` is raised only after the evaluation that belongs to an iteration.
        """
        return max(self.iteration, self._iteration_in_progress)

    @override(Algorithm)
    def evaluate(self, parallel_train_future: ThreadPoolExecutor | None = None) -> dict[str, Any]:
        """Plays the evaluation scenes greedily on the training runners.

        Returns:
            Success rate overall and per task, mean length, number of trajectories, seconds; see `docs/metrics.md`.
        """
        self._progress.start_phase("evaluate")
        results = evaluate_on_env_runners(self)
        self._rounds.forget_lost_requests()
        return results

    # --- sampling -----------------------------------------------------------------------------------------------------

    def _collect_groups(self) -> list[StoredGroup]:
        """Samples until a train batch of groups with contrast is there, or the rounds are used up."""
        cfg = self.config
        target = cfg.num_groups_per_train_batch
        fresh, num_stale = self._split_fresh(self.carried_over)
        pool, self.carried_over = self._available(fresh), deque()
        is_under_way = bool(self._rounds.requests_under_way())  # started before the last update
        rounds = int(is_under_way)
        while len(pool) < target and (is_under_way or rounds < cfg.max_sampling_rounds):
            if not is_under_way:
                self._start_round()
                rounds += 1
            arrived = self._take_in()
            # Without any answer (a runner hangs) others must not wait for it.
            is_under_way = bool(cfg.max_sampling_staleness and arrived.metrics and self._rounds.requests_under_way())
            fresh, num_late = self._split_fresh(arrived.groups)
            num_stale += num_late
            pool = self._available(pool + fresh)
            self._progress.groups_kept(len(pool))
        # Every learner gets the same number of groups, else their collective operations would not match.
        num_learners = max(1, cfg.num_learners)
        num_used = min(len(pool), target) // num_learners * num_learners
        self.carried_over.extend(pool[num_used:])
        self.metrics.log_value((names.SAMPLING_RESULTS, names.NUM_SAMPLING_ROUNDS), rounds, window=1)
        self.metrics.log_value((names.SAMPLING_RESULTS, names.NUM_GROUPS_STALE), num_stale, window=1)
        return pool[:num_used]

    def _start_round(self) -> bool:
        """Lets all environment runners collect groups side by side. Returns whether any of them was free."""
        requests = self.scene_sampler.draw(
            self.config.num_groups_per_sampling_round or self.config.num_groups_per_train_batch
        )
        unplaced = self._rounds.start(requests, self.num_updates, self._progress.group_finished)
        self.scene_sampler.give_back(unplaced)
        return len(unplaced) < len(requests)

    def _take_in(self) -> Arrived:
        """Waits for results of the runners; those of an on-policy round are all needed before the update."""
        arrived = self._rounds.wait(for_all=self.config.max_sampling_staleness == 0)
        if arrived.metrics:
            self.metrics.aggregate(arrived.metrics, key=ENV_RUNNER_RESULTS)
        if arrived.refused:
            # A runner that was restarted between two calls holds the initial weights.
            self._sync_weights()
            self.scene_sampler.give_back(sorted(arrived.refused, key=lambda request: request.group_id))
        return arrived

    def _sample_ahead(self) -> None:
        """Starts the rounds that runners play during the update, unless enough groups are waiting already."""
        cfg = self.config
        per_round = cfg.num_groups_per_sampling_round or cfg.num_groups_per_train_batch
        while (
            len(self.carried_over) < cfg.num_groups_per_train_batch
            and len(self._rounds.requests_under_way()) < cfg.max_sampling_staleness * per_round
        ):
            if not self._start_round():
                return

    def _available(self, groups: Iterable[StoredGroup]) -> list[StoredGroup]:
        """Leaves out groups that are lost: objects go with the runner that put them into the object store."""
        if self.env_runner_group.num_remote_env_runners() == 0:
            return list(groups)
        available = []
        for group in groups:
            try:
                ray.get(group.episodes)  # a view of shared memory, not a copy
                available.append(group)
            except ray.exceptions.RayError as error:
                logger.warning(f"Group {group.group_id} is lost with its environment runner: {type(error).__name__}")
        return available

    def _split_fresh(self, groups: Iterable[StoredGroup]) -> tuple[list[StoredGroup], int]:
        """Returns the groups whose weights are at most `max_group_staleness` updates old, and how many are older."""
        groups = list(groups)
        oldest = self.num_updates - self.config.max_group_staleness
        fresh = [group for group in groups if group.weights_seq_no >= oldest]
        return fresh, len(groups) - len(fresh)

    # --- learning -----------------------------------------------------------------------------------------------------

    def _update(self, groups: list[StoredGroup]) -> None:
        cfg = self.config
        num_learners = max(1, cfg.num_learners)
        num_trajectories = len(groups) // num_learners * cfg.group_size  # of one learner
        minibatch_size = min(
            -(-cfg.minibatch_size // num_learners) if cfg.minibatch_size else num_trajectories, num_trajectories
        )
        results = update_learners(
            self.learner_group,
            episodes_refs=[group.episodes for group in groups],
            timesteps={
                NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                    (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0
                )
            },
            num_epochs=cfg.num_epochs,
            minibatch_size=minibatch_size,
            shuffle_batch_per_epoch=cfg.shuffle_batch_per_epoch,
            num_total_minibatches=cfg.num_epochs * -(-num_trajectories // minibatch_size),
        )
        self.num_updates += 1
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _sync_weights(self) -> None:
        """Sends the learner's weights to all runners; they carry the number of updates as their version."""
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            if shares_process(self.config):
                self.env_runner.weights_seq_no = self.num_updates
                return
            if self._weights is None or self._weights.seq_no != self.num_updates:
                self._weights = publish_weights(self.learner_group)
            send_weights(self._weights, self.env_runner_group)

    def _take_turns(self, *, to_learner: bool) -> None:
        """Hands a shared GPU over: what is idle now waits in host memory."""
        if not self.config.offload_idle_model:
            return
        with_weights = not shares_process(self.config)
        if to_learner:
            if with_weights:
                self.env_runner_group.foreach_env_runner(offload.park_runner, local_env_runner=False)
            self.learner_group.foreach_learner(offload.wake_learner, with_weights=with_weights)
        else:
            self.learner_group.foreach_learner(offload.park_learner, with_weights=with_weights)
            if with_weights:
                self.env_runner_group.foreach_env_runner(offload.wake_runner, local_env_runner=False)

    def ensure_current_weights(self) -> None:
        """Brings runners up to date that were restarted between two calls and hold the initial weights."""
        seq_no = self.num_updates
        if not all(
            self.env_runner_group.foreach_env_runner(
                lambda env_runner: env_runner.weights_seq_no == seq_no,
                local_env_runner=self.env_runner_group.num_remote_env_runners() == 0,
            )
        ):
            self._sync_weights()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    @override(Algorithm)
    def get_state(
        self, components: Components = None, *, not_components: Components = None, **kwargs: Any
    ) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        state["grpo"] = {
            "scene_sampler": self.scene_sampler.get_state(self._rounds.requests_under_way()),
            "num_updates": self.num_updates,
            "results_at_start": self._results_at_start,
            "carried_over": [
                (ray.get(g.episodes), g.group_id, g.weights_seq_no, g.num_model_calls)
                for g in self._available(self.carried_over)
            ],
        }
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._iteration_in_progress = 0
        if "grpo" in state:
            own = state["grpo"]
            self._rounds.drop()
            self._weights = None
            self.scene_sampler.set_state(own["scene_sampler"])
            self.num_updates = own["num_updates"]
            self._results_at_start = own["results_at_start"]
            self.carried_over = deque(StoredGroup(ray.put(episodes), *rest) for episodes, *rest in own["carried_over"])

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        use_msgpack = self.config._use_msgpack_checkpoints
        self.save_to_path(checkpoint_dir, use_msgpack=use_msgpack, final_dir=local_storage_dir(self._storage))

    @override(Algorithm)
    def save_to_path(self, path: str | Path | None = None, *, final_dir: Path | None = None, **kwargs: Any) -> str:
        """Writes a complete checkpoint with its manifest.

        Args:
            path: Folder; None: a new temporary one. Sharded learners cannot write to a cloud's storage, and what others
                write there has no manifest.
            final_dir: Where Tune will copy it to, see `ShardCheckpoints.save`.
            **kwargs: As RLlib's method.

        Returns:
            The folder.

        Raises:
            TrainingCheckpointError: It could not be written.
        """
        check_learners(self.learner_group)
        with explained_write_errors(path or "a temporary folder"):
            folder: str = super().save_to_path(path, **kwargs)
            check_learners(self.learner_group)  # RLlib does not look whether remote ones could save their state
            if Path(folder).is_dir():
                self._shards.save(folder, final_dir)
            elif self._shards.is_sharded:
                raise TrainingCheckpointError(
                    f"Sharded learners write to a folder that all of them share, not {folder}"
                )
        return folder

    @override(Algorithm)
    def _report_class_trainable_checkpoint(
        self, checkpoint_dir: str, checkpoint_dict_or_path: str | dict[str, Any]
    ) -> _TrainingResult:
        # Tune copies it to its storage now.
        with explained_write_errors(checkpoint_dir if self._storage is None else self._storage.trial_fs_path):
            result = super()._report_class_trainable_checkpoint(checkpoint_dir, checkpoint_dict_or_path)
        result.metrics = with_flat_keys(result.metrics)
        return result

    @override(Algorithm)
    def load_checkpoint(self, checkpoint_dir: str) -> None:
        verify_checkpoint(checkpoint_dir)
        super().load_checkpoint(checkpoint_dir)

    @override(Algorithm)
    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self._shards.load(path)
        self._weights = None  # published before; a part of a checkpoint changes them without their version number
        # Another run's checkpoint (population-based training) may have the version number that the runners hold
        # now, and yet other weights: they must take these over.
        self.env_runner_group.foreach_env_runner(
            lambda env_runner: env_runner.forget_weights_version(), local_env_runner=True, timeout_seconds=0.0
        )
        self._sync_weights()
        self._take_turns(to_learner=False)

    @override(Algorithm)
    def cleanup(self) -> None:
        if hasattr(self, "_shards"):  # not if the setup failed
            self._shards.complete(wait=True)
        super().cleanup()
