import dataclasses

import numpy as np
import pytest

import envs
from rllib_vla.env_runners.simulator import Request, Simulator, SimulatorWithoutSnapshots, simulator_class
from tests.rllib_vla.toy import SUITE
from tests.toy_suite import FLEETING_SUITE, FleetingToyEnv

SCENES = envs.list_scenes(SUITE, "train")
FLEETING = FLEETING_SUITE.name


def chunks_for(slot: int, num_calls: int = 3) -> np.ndarray:
    return np.random.default_rng(slot).uniform(-1, 1, (num_calls, 8, 7)).astype(np.float32)


def same(a, b) -> bool:
    equal_observation = (a.observation is None) == (b.observation is None) and (
        a.observation is None or all(np.array_equal(a.observation[k], b.observation[k]) for k in a.observation)
    )
    outcome = ("success", "done", "num_control_steps")
    return equal_observation and all(getattr(a, name) == getattr(b, name) for name in outcome)


def play_alone(scene, chunks):
    simulator = Simulator(SUITE, {})
    replies = simulator.execute([Request(0, scene=scene)])
    for chunk in chunks:
        replies += simulator.execute([Request(0, chunk=chunk)])
        if replies[-1].done:
            break
    return replies


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_interleaved_slots_equal_playing_one_by_one(order):
    scenes = {0: SCENES[0], 1: SCENES[0], 2: SCENES[7]}  # two slots share a scene
    alone = {slot: play_alone(scene, chunks_for(slot)) for slot, scene in scenes.items()}
    simulator = Simulator(SUITE, {})
    replies = dict(
        zip(order, ([r] for r in simulator.execute([Request(s, scene=scenes[s]) for s in order])), strict=True)
    )
    for call in range(3):
        live = [slot for slot in order if not replies[slot][-1].done]
        for slot, reply in zip(
            live, simulator.execute([Request(s, chunk=chunks_for(s)[call]) for s in live]), strict=True
        ):
            replies[slot].append(reply)
    for slot, expected in alone.items():
        assert len(expected) == len(replies[slot]) > 1
        assert all(same(a, b) for a, b in zip(expected, replies[slot], strict=True))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_without_snapshots_every_slot_has_an_environment_of_its_own(order):
    scenes = {0: SCENES[0], 1: SCENES[7]}
    expected = {slot: play_alone(scene, chunks_for(slot)) for slot, scene in scenes.items()}
    num_made = FleetingToyEnv.num_made
    simulator = simulator_class(FLEETING)(FLEETING, {})
    fleeting = {slot: dataclasses.replace(scene, suite=FLEETING) for slot, scene in scenes.items()}
    starts = simulator.execute([Request(slot, scene=fleeting[slot]) for slot in order], record_frames=True)
    replies = {slot: [reply] for slot, reply in zip(order, starts, strict=True)}
    assert all(np.array_equal(reply.frame, reply.observation["image"]) for reply in starts)
    for call in range(3):
        for slot in order:
            if not replies[slot][-1].done:
                replies[slot] += simulator.execute([Request(slot, chunk=chunks_for(slot)[call])])
    for slot in order:
        assert len(expected[slot]) == len(replies[slot]) > 1
        assert all(same(a, b) for a, b in zip(expected[slot], replies[slot], strict=True))
    # A slot that starts again keeps its environment.
    reply = simulator.execute([Request(0, scene=fleeting[1])])[0]
    assert same(reply, play_alone(SCENES[7], [])[0])
    assert FleetingToyEnv.num_made - num_made == 2
    simulator.close()


def test_suites_choose_their_simulator():
    assert simulator_class(SUITE) is Simulator
    assert simulator_class(FLEETING) is simulator_class(f"{SUITE}+{FLEETING}") is SimulatorWithoutSnapshots


def test_a_slot_can_be_restarted_in_the_middle():
    simulator = Simulator(SUITE, {})
    simulator.execute([Request(0, scene=SCENES[0])])
    simulator.execute([Request(0, chunk=chunks_for(5)[0])])
    simulator.execute([Request(0, scene=SCENES[0])])
    reply = simulator.execute([Request(0, chunk=chunks_for(0)[0])])[0]
    assert same(reply, play_alone(SCENES[0], chunks_for(0))[1])


def test_cached_initial_states_equal_a_reset():
    simulator = Simulator(SUITE, {})
    for _ in range(2):
        simulator.execute([Request(0, scene=SCENES[3]), Request(1, scene=SCENES[4])])
        simulator.execute([Request(0, chunk=chunks_for(9)[0])])
    fresh = Simulator(SUITE, {}).execute([Request(0, scene=SCENES[3])])[0]
    assert same(simulator.execute([Request(2, scene=SCENES[3])])[0], fresh)


def test_step_limit_ends_without_success_and_without_observation():
    idle = np.zeros((3, 8, 7), np.float32)
    replies = play_alone(SCENES[0], idle)
    assert [r.num_control_steps for r in replies] == [0, 8, 8, 8]
    assert [r.done for r in replies] == [False, False, False, True]
    assert not replies[-1].success
    assert replies[-1].observation is None
    assert replies[-2].observation is not None


@pytest.mark.parametrize(
    ("suite", "config"),
    [
        ("libero_blocks", {"stepping": "fast", "image_size": 32}),
        ("libero_blocks", {"stepping": "exact", "image_size": 32}),
        ("bimanual", {"renderer": "numpy", "image_size": 32, "chunk_size": 8}),
    ],
)
def test_frames_after_the_end_are_saved_and_nothing_else_changes(suite, config):
    if suite == "bimanual":
        pytest.importorskip("sapien")
    scenes = [scene for scene in envs.list_scenes(suite, "eval") if scene.index == 0][:2]

    def play(observes_end):
        simulator = Simulator(suite, {**config, "max_control_steps": 20})
        env, num_frames = simulator._env, [0]
        env.observes_end = env.observes_end or observes_end
        observe = env.observe

        def counted():
            num_frames[0] += 1
            return observe()

        env.observe = counted
        replies = []
        for _ in range(2):  # the second time the starts are known
            replies += simulator.execute([Request(i, scene=scene, object_state=True) for i, scene in enumerate(scenes)])
            for call in range(3):
                chunks = [chunks_for(slot)[call] for slot in range(2)]
                if suite == "bimanual":
                    chunks = [np.tile(chunk, 2) for chunk in chunks]
                requests = [Request(slot, chunk=chunk, object_state=True) for slot, chunk in enumerate(chunks)]
                replies += simulator.execute(requests, record_frames=True)
        simulator.close()
        return replies, num_frames[0]

    (saved, num_saved), (whole, num_whole) = play(False), play(True)
    assert all(same(a, b) and a.object_state == b.object_state for a, b in zip(saved, whole, strict=True))
    assert all(np.array_equal(a.frame, b.frame) for a, b in zip(saved, whole, strict=True))  # videos show the end
    ended = [reply for reply in whole if reply.done]
    assert len(ended) == 4
    assert all(reply.frame is not None for reply in ended)
    assert num_whole - num_saved == 4


def test_frames_are_returned_on_request():
    simulator = Simulator(SUITE, {})
    assert simulator.execute([Request(0, scene=SCENES[0])])[0].frame is None
    start, step = (
        simulator.execute([request], record_frames=True)[0]
        for request in (Request(1, scene=SCENES[0]), Request(1, chunk=chunks_for(0)[0]))
    )
    assert start.frame.dtype == np.uint8
    assert not np.array_equal(start.frame, step.frame)
