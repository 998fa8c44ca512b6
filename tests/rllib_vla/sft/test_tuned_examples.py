from pathlib import Path

import pytest

import envs
from policies.openvla_oft import OpenVLAOFTConfig
from rllib_vla.sft.config import SFTConfig

EXAMPLES = sorted((Path(__file__).parents[3] / "tuned_examples" / "sft").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_names_settings_tasks_and_policy_fields_that_exist(path):
    config = SFTConfig.from_yaml(path)
    assert set(config.tasks) <= {info.name for info in envs.list_tasks("libero_blocks")}
    OpenVLAOFTConfig.preset(config.preset, **config.policy)


def test_the_suite_example_covers_the_suite():
    path = next(path for path in EXAMPLES if path.stem == "libero_blocks_all_sft")
    assert SFTConfig.from_yaml(path).tasks == [info.name for info in envs.list_tasks("libero_blocks")]
