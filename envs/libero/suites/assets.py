"""Finds LIBERO's asset pack (meshes, textures, scenes), or fetches it: `python -m envs.libero.suites.assets`.

The pack is looked for in this order: `assets_path` of the environment's configuration, the environment variable
`RLLIB_VLA_LIBERO_ASSETS`, the installed LIBERO package, and the folder into which `hf-libero` downloads it from the
Hugging Face Hub. Nothing is downloaded unless this module is run as a program.
"""

import os
import sys
from pathlib import Path

from envs.libero.engine import EngineError, load_engine
from envs.libero.suites.tasks import package_path

ENVIRONMENT_VARIABLE = "RLLIB_VLA_LIBERO_ASSETS"
FETCH_COMMAND = "python -m envs.libero.suites.assets"
_FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)


class AssetsError(EngineError):
    """LIBERO's asset pack is missing or incomplete."""


def find_assets(assets_path: str | os.PathLike | None = None) -> tuple[Path, str]:
    """Returns the folder of the asset pack and where it was named.

    Args:
        assets_path: The folder that the user chose; None looks in the other places.

    Raises:
        AssetsError: When there is no pack, or a folder that was named explicitly is not one.
    """
    for named, source in ((assets_path, "assets_path"), (os.environ.get(ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE)):
        if named:
            folder = Path(named).expanduser().resolve()
            if missing := _missing(folder):
                raise AssetsError(
                    f"{source} is {str(named)!r}, which is not LIBERO's asset pack: {missing}. It must be the folder "
                    f"that holds {', '.join(_FOLDERS)}"
                )
            return folder, source
    for folder, source in ((package_path() / "assets", "installed LIBERO"), (hub_folder(), "download of hf-libero")):
        if not _missing(folder):
            return folder, source
    raise AssetsError(
        "LIBERO's assets (meshes and textures) are not on this machine. Fetch them with: "
        f"{FETCH_COMMAND}  or, if you have them, set env_config's 'assets_path' or {ENVIRONMENT_VARIABLE} to their "
        f"folder. Looked in {package_path() / 'assets'} and {hub_folder()}. The suite libero_blocks needs none"
    )


def hub_folder() -> Path:
    """Returns the folder into which `hf-libero` downloads the pack: the only place in the home directory used."""
    return Path.home() / ".cache" / "libero" / "assets"


def fetch_assets() -> Path:
    """Downloads the pack from the Hugging Face Hub with `hf-libero`, about 1 GB; returns its folder.

    Raises:
        AssetsError: When that fails; says why.
    """
    load_engine()
    try:
        from libero.libero.utils.download_utils import download_assets_from_huggingface

        folder = Path(download_assets_from_huggingface())
    except Exception as error:
        raise AssetsError(f"LIBERO's assets could not be downloaded to {hub_folder()}: {error}") from error
    if missing := _missing(folder):
        raise AssetsError(f"the download to {folder} is incomplete: {missing}. Remove the folder and try again")
    return folder


def _missing(folder: Path) -> str:
    """Returns what `folder` lacks of an asset pack, empty if nothing."""
    if not folder.is_dir():
        return "there is no such folder"
    missing = [name for name in _FOLDERS if not (folder / name).is_dir()]
    return f"there is no {' and no '.join(missing)} in it" if missing else ""


def main() -> int:
    """Downloads the pack unless it is there; returns the exit status."""
    try:
        folder, source = find_assets()
        print(f"LIBERO's assets are in {folder} ({source}).")
    except AssetsError:
        try:
            print(f"LIBERO's assets are now in {fetch_assets()}.")
        except AssetsError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
