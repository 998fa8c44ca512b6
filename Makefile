# Two commands are all a newcomer needs: `make train` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow lint format docs docs-serve config-reference demos sft bimanual-demos bimanual-sft
.PHONY: vulkan bench tensorboard clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup:  ## virtual environment, packages, system libraries (only what is missing)
	@scripts/setup.sh $(VENV)

train: setup  ## GRPO on libero_blocks from the shipped cold start, to a rising success curve
	$(BIN)/rllib train file tuned_examples/grpo/libero_blocks_grpo.yaml

test: setup  ## the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

test-slow: setup  ## all tests, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: setup  ## ruff check and format check, types of the public surface
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the documentation as a site in build/site, every link and anchor checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: setup  ## the same on http://127.0.0.1:8000, rebuilt at every change
	$(BIN)/mkdocs serve

config-reference: setup  ## docs/config_reference.md, from GRPOConfig
	$(BIN)/rllib config reference > docs/config_reference.md

demos: setup  ## demonstrations of the scripted experts, for the cold start
	OMP_NUM_THREADS=1 $(BIN)/python -m envs.demonstrations --suite libero_blocks --out demos/libero_blocks \
		--tasks lift_red_cube lift_blue_cube lift_green_cube --num-demos 300 --action-noise 0.05 --wander-steps 6

sft: setup  ## the cold-start checkpoint of `make train`, from the demonstrations; replaces the shipped one
	$(BIN)/rllib sft tuned_examples/sft/libero_blocks_sft.yaml
	rm -rf checkpoints/libero_blocks_cold_start
	cp -r runs/sft/libero_blocks/checkpoint checkpoints/libero_blocks_cold_start

bimanual-demos: setup  ## demonstrations for the cold start of a two-armed task
	OMP_NUM_THREADS=1 $(BIN)/python -m envs.demonstrations --suite bimanual --out demos/bimanual \
		--tasks lift_pot --num-demos 150 --wander-steps 6 --config '{"renderer": "numpy"}'

bimanual-sft: setup  ## cold start of tuned_examples/grpo/bimanual_lift_pot_grpo.yaml
	$(BIN)/rllib sft tuned_examples/sft/bimanual_lift_pot_sft.yaml

vulkan:  ## opt-in: a Vulkan driver new enough for SAPIEN, system-wide (on Debian 12 this adds backports to apt's sources)
	scripts/vulkan.sh

bench: setup  ## every speed claim, as a ratio against a baseline in the same run
	$(BIN)/python -m benchmarks

tensorboard: setup  ## TensorBoard on all runs
	$(BIN)/rllib board

clean:  ## remove the virtual environment and caches; runs, checkpoints and demonstrations stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info
