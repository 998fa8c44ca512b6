"""The whole sampling path on two simulator actors: the rollout engine, against lockstep.

Lockstep is the scheme of the reference implementation: as many trajectories as there are slots start together, all
wait for the slowest simulator after each chunk, and those that have ended keep being inferred until the last one ends.
Each scheme plays the same scenes with the same policy, sampling noise and simulators. The policy is the shipped cold
start; without it, random weights, which never succeed: all trajectories are then equally long, and what the engine
gains from trajectories that end early does not show.
"""

from benchmarks.measure import Figure, Variant, compare
from benchmarks.scenarios import make_config, policy_directory, ray_session, training_scenes
from rllib_vla.env_runners.group import GroupRequest, Member
from rllib_vla.env_runners.group_env_runner import GroupEnvRunner
from rllib_vla.env_runners.simulator import Reply, Request

GROUP_SIZE = 8


def run(quick: bool) -> list[Figure]:
    """Returns trajectories per second."""
    num_groups, num_slots, rounds = (4, 8, 1) if quick else (12, 16, 5)
    requests = [GroupRequest(i, scene, GROUP_SIZE, seed=0) for i, scene in enumerate(training_scenes(num_groups))]
    with ray_session(), policy_directory() as policy:
        config = make_config(policy, num_simulators=2, num_slots=num_slots)
        config.validate()
        runner = GroupEnvRunner(config=config, worker_index=0)
        try:
            return compare(
                [
                    Variant("lockstep", lambda: play_in_lockstep(runner, requests)),
                    Variant(
                        "lockstep, one simulator call at a time",
                        lambda: play_in_lockstep(runner, requests, one_call_at_a_time=True),
                    ),
                    Variant("engine", lambda: play_with_engine(runner, requests)),
                ],
                rounds=rounds,
                amount=num_groups * GROUP_SIZE,
                rate_unit="trajectories/s",
            )
        finally:
            runner.stop()


def play_with_engine(runner: GroupEnvRunner, requests: list[GroupRequest]) -> list[Member]:
    """Plays all members of `requests` as training does.

    Raises:
        SimulatorError: When a simulator failed: the figures would count trajectories that were not played.
    """
    members = []
    for member in runner.evaluate_scenes(requests, explore=True):
        if member.error is not None:
            raise member.error
        members.append(member)
    return members


def play_in_lockstep(
    runner: GroupEnvRunner, requests: list[GroupRequest], *, one_call_at_a_time: bool = False
) -> list[Member]:
    """Plays all members of `requests` in batches that advance chunk by chunk.

    Args:
        runner: Its policy, connectors and simulators are used.
        requests: Groups to play.
        one_call_at_a_time: The simulators work one after the other instead of side by side.

    Raises:
        SimulatorError: When a simulator failed.
    """
    seats = [(lane, slot) for lane in runner.pool.lanes for slot in lane.slots]
    supply = [member for request in requests for member in runner._make_members(request)]
    for first in range(0, len(supply), len(seats)):
        seated = dict(zip(seats, supply[first : first + len(seats)], strict=False))
        starts = {seat: Request(seat[1], scene=member.scene) for seat, member in seated.items()}
        replies = _execute(runner.pool, starts, one_call_at_a_time)
        running, last_observation = dict(seated), {}
        while True:
            for seat, reply in replies.items():
                running[seat].observe(reply)
                if reply.done:
                    del running[seat]
                else:
                    last_observation[seat] = reply.observation
            if not running:
                break
            ended = [_stand_in(runner, seated[seat], last_observation[seat]) for seat in seated if seat not in running]
            chunks = runner._act([*running.values(), *ended], explore=True)
            steps = {seat: Request(seat[1], chunk=chunk) for seat, chunk in zip(running, chunks, strict=False)}
            replies = _execute(runner.pool, steps, one_call_at_a_time)
    return supply


def _stand_in(runner: GroupEnvRunner, member: Member, observation: dict) -> Member:
    """Returns a member that waits with the last observation of one that has ended."""
    stand_in = runner._make_members(member.request)[0]
    stand_in.observe(Reply(observation, success=False, done=False, num_control_steps=0, simulation_s=0.0))
    return stand_in


def _execute(pool, requests: dict, one_call_at_a_time: bool) -> dict:
    """Executes one request per seat and waits for all replies."""
    replies = {}
    by_lane: dict = {}
    for (lane, slot), request in requests.items():
        by_lane.setdefault(lane, {})[lane, slot] = request

    def collect(num_calls: int) -> None:
        while num_calls:
            for completed in pool.wait():
                if completed.error is not None:
                    raise completed.error
                replies.update(zip(by_lane[completed.lane], completed.replies, strict=True))
                num_calls -= 1

    for lane, of_lane in by_lane.items():
        pool.submit(lane, list(of_lane.values()))
        if one_call_at_a_time:
            collect(1)
    if not one_call_at_a_time:
        collect(len(by_lane))
    return replies
