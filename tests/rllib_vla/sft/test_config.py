import pytest

from rllib_vla.sft.config import SFTConfig, SFTConfigError

MINIMAL = {"demos_dir": "demos", "output_dir": "out", "tasks": ["lift"]}


def test_plain_values_round_trip():
    config = SFTConfig.from_dict(MINIMAL | {"lr": 1e-3, "augmentation": {"hue": 0.0}, "policy": {"a": 1}})
    assert config.augmentation.hue == 0.0
    assert SFTConfig.from_dict(config.to_dict()) == config


def test_yaml_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text("demos_dir: d\noutput_dir: o\ntasks: [lift]\nlr: 5e-4\nema_decay: null\nbetas: [0.9, 0.95]\n")
    config = SFTConfig.from_yaml(path)
    assert (config.lr, config.ema_decay, config.betas) == (5e-4, None, (0.9, 0.95))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 4}, "unknown key 'batchsize'; did you mean 'batch_size'"),
        (
            {"augmentation": {"brightnes": 0.1}},
            "'augmentation.brightnes'; did you mean 'augmentation.brightness'",
        ),
        ({"qqq": 1}, "unknown key 'qqq'; valid keys"),
        ({"num_steps": 1.5}, "'num_steps' must be int, not 1.5"),
        ({"num_steps": True}, "'num_steps' must be int, not True"),
        ({"lr": "fast"}, "'lr' must be float, not 'fast'"),
        ({"tasks": "lift"}, "'tasks' must be list"),
        ({"tasks": []}, "'tasks' is empty"),
        ({"tasks": [3]}, r"'tasks\[0\]' must be str, not 3"),
        ({"betas": [0.9]}, "'betas' must have 2 values, not 1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"batch_size": 10, "micro_batch_size": 4}, "does not divide"),
        ({"lr": 0.0}, "'lr' must be positive"),
        ({"ema_decay": 1.0}, "'ema_decay' must be in"),
        ({"decay_at": 67.0}, r"'decay_at' is a share, must be in \[0, 1\], not 67.0"),
        ({"final_lr_fraction": -0.1}, "'final_lr_fraction' is a share"),
        ({"augmentation": {"crop_area": 2.0}}, "augmentation.crop_area is a share"),
        ({"init_from": "x", "policy": {"hidden_size": 1}}, "'policy.hidden_size' cannot be used with 'model_path'"),
        ({"init_from": "x", "model_path": "y"}, "older name of 'model_path'"),
        ({"demos_format": "rlds"}, "must be one of auto, libero_hdf5"),
        ({"gripper_convention": "libro"}, "did you mean 'libero'"),
        ({"loss": "full_vocab"}, "did you mean 'full_vocabulary'"),
        ({"demos": {"lift": "demo_0"}}, "'demos.lift' must be list"),
        ({"demos_per_task": 0}, "'demos_per_task' must be positive"),
        ({"num_workers": 3}, "'num_workers' 3 does not divide 'batch_size' 64"),
        (
            {"num_workers": 2, "micro_batch_size": 64},
            "'micro_batch_size' 64 does not divide 'batch_size' 64 / 2 workers",
        ),
        ({"num_workers": -1}, "'num_workers' must not be negative"),
        ({"lora": {"rank": 4}}, "'lora' adapts a checkpoint: set 'model_path'"),
        ({"model_path": "x", "lora": {"rnk": 4}}, "`lora`: unknown key 'rnk'; did you mean 'rank'"),
        ({"model_path": "x", "lora": {}, "ema_decay": 0.9}, "'ema_decay' and 'lora' cannot be used together"),
        ({"frozen_dtype": "bfloat16"}, "'frozen_dtype' bfloat16 is of weights that 'lora' leaves frozen"),
        ({"evaluation": {}}, "'evaluation' needs a suite"),
        ({"suite": "s", "evaluation": {"every_steps": 0}}, "'evaluation.every_steps' must be positive"),
        ({"suite": "s", "evaluation": {"evry_steps": 5}}, "did you mean 'evaluation.every_steps'"),
    ],
)
def test_mistakes_are_refused_by_name(change, message):
    with pytest.raises(SFTConfigError, match=message):
        SFTConfig.from_dict(MINIMAL | change)


def test_all_mistakes_are_found_at_once_with_their_keys():
    wrong = {"lr": "fast", "augmentation": {"hu": 1}, "stepps": 3, "demos": {"a": [1]}}
    with pytest.raises(SFTConfigError) as caught:
        SFTConfig.from_dict(MINIMAL | wrong)
    paths = {path for path, _ in caught.value.mistakes}
    assert paths == {("lr",), ("augmentation", "hu"), ("stepps",), ("demos", "a", 0)}


def test_init_from_is_model_path():
    config = SFTConfig.from_dict(MINIMAL | {"init_from": "checkpoints/x"})
    assert (config.model_path, config.init_from) == ("checkpoints/x", None)
    assert SFTConfig.from_dict(config.to_dict()) == config


def test_missing_key_is_named():
    with pytest.raises(SFTConfigError, match="missing key 'demos_dir'"):
        SFTConfig.from_dict({"output_dir": "out", "tasks": ["lift"]})


def test_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(SFTConfigError, match="must hold a mapping"):
        SFTConfig.from_yaml(path)
