"""Names of everything that is measured, in one place.

Tune flattens nested results with "/", so `ENV_RUNNER_RESULTS` + `SUCCESS_RATE` appears in TensorBoard as
``env_runners/success_rate``. ``docs/metrics.md`` explains every name to users.
"""

# --- under "env_runners" (sampling) and "evaluation" -------------------------------------------------------
SUCCESS_RATE = "success_rate"  # share of successful trajectories, before any filtering
SEEN_SUCCESS_RATE = "seen_success_rate"  # evaluation: mean over the tasks that were trained on
UNSEEN_SUCCESS_RATE = "unseen_success_rate"  # evaluation: mean over `unseen_tasks`
TASK_SUCCESS_RATE = "task_success_rate"  # dict: task name -> share of successful trajectories
NUM_TRAJECTORIES = "num_trajectories"
NUM_TRAJECTORIES_LIFETIME = "num_trajectories_lifetime"
TRAJECTORY_LENGTH = "trajectory_length"  # mean number of control steps
NUM_GROUPS = "num_groups"  # completed groups, before filtering
SHARE_MIXED_GROUPS = "share_mixed_groups"  # groups with contrast: they carry the whole learning signal
SHARE_ALL_SUCCESS_GROUPS = "share_all_success_groups"
SHARE_ALL_FAIL_GROUPS = "share_all_fail_groups"
ENV_STEPS_PER_SECOND = "env_steps_per_second"  # control steps
MODEL_CALLS_PER_SECOND = "model_calls_per_second"
TRAJECTORIES_PER_SECOND = "trajectories_per_second"
NUM_SIMULATOR_FAILURES = "num_simulator_failures"
NUM_GROUPS_LOST = "num_groups_lost"

# --- under "sampling" (what one training iteration collected) ----------------------------------------------
SAMPLING_RESULTS = "sampling"
NUM_SAMPLING_ROUNDS = "num_sampling_rounds"
NUM_GROUPS_TRAINED = "num_groups_trained"
NUM_GROUPS_CARRIED_OVER = "num_groups_carried_over"
NUM_GROUPS_STALE = "num_groups_stale"  # dropped because their weights were too old
STALENESS_MEAN = "staleness_mean"  # updates between the weights that sampled a group and those it is trained on
STALENESS_MAX = "staleness_max"
WEIGHTS_BYTES = "weights_bytes"  # sent to each runner; also under "learners/...", from sharded learners
NUM_ITERATIONS_WITHOUT_UPDATE = "num_iterations_without_update"

# --- under "learners/default_policy" -----------------------------------------------------------------------
POLICY_LOSS = "policy_loss"
CLIP_FRACTION_LOW = "clip_fraction_low"
CLIP_FRACTION_HIGH = "clip_fraction_high"
APPROX_KL = "approx_kl"
ENTROPY = "entropy"
KL_TO_REFERENCE = "kl_to_reference"
IMPORTANCE_WEIGHT = "importance_weight"  # mean of min(pi_old / pi_behaviour, cap), stale tokens only
IMPORTANCE_WEIGHT_CAPPED = "importance_weight_capped"  # share of the stale tokens at the cap
RATIO_MAX_DEVIATION = "ratio_max_deviation"  # max |ratio - 1| on the first minibatch after sampling
NUM_NONFINITE_UPDATES = "num_nonfinite_updates"  # optimizer steps skipped for a non-finite loss or gradient
WEIGHTS_GATHER_TIME = "weights_gather_s"  # sharded learners: collecting the weights for the environment runners
NUM_MICRO_BATCHES = "num_micro_batches"  # forward and backward passes per optimizer step
MICRO_BATCH_FILL = "micro_batch_fill"  # tokens per pass, padding included, as a share of `micro_batch_tokens`

# --- under "time_split" (seconds of one iteration) ---------------------------------------------------------
TIME_SPLIT = "time_split"
TIME_SAMPLE = "sample_s"
TIME_UPDATE = "update_s"
TIME_SYNC = "sync_s"
TIME_EVALUATE = "evaluate_s"
