"""Draws all tasks, start beside success: `python -m envs.libero.blocks.contact_sheet --out FILE.png`."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import envs
from envs.libero.blocks import tasks
from envs.libero.blocks.experts import make_expert

_COLUMNS = 3
_CAPTION_HEIGHT = 18
_BORDER = 4


def draw_contact_sheet(index: int = 0) -> Any:
    """Plays the expert of each task on training scene `index` and returns the picture (a Pillow image)."""
    from PIL import Image, ImageDraw

    env = envs.make_env(tasks.SUITE)
    tiles = []
    for scene in envs.list_scenes(tasks.SUITE, "train")[index :: tasks.NUM_SCENES_PER_SPLIT]:
        env.reset(options={"scene": scene})
        frames = [env.render()]
        expert = make_expert(env.robosuite_env, scene)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(expert.act()[None])
            ended = terminated or truncated
        frames.append(env.render())
        caption = Image.new("RGB", (2 * frames[0].shape[1], _CAPTION_HEIGHT), "white")
        ImageDraw.Draw(caption).text((6, 3), scene.instruction, fill="black")
        tile = np.vstack([np.asarray(caption), np.hstack(frames)])
        tiles.append(np.pad(tile, ((0, _BORDER), (0, _BORDER), (0, 0)), constant_values=255))
    env.close()
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    return Image.fromarray(np.vstack(rows))


def main() -> None:
    """Command line of the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.png)")
    parser.add_argument("--index", type=int, default=0, help="index of the training scene of each task")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(args.index).quantize(128).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
