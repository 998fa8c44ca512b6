from rllib_vla.logging.noise import is_noise


def test_only_known_remarks_are_dropped():
    assert is_noise("WARNING algorithm_config.py:5160 -- You are running PPO on the new API stack! This is ...")
    assert not is_noise("WARNING grpo.py:280 -- No group with contrast in this iteration: no update.")
    assert not is_noise("RuntimeError: the simulator broke")
