"""Objects, gripper and arm of `libero_blocks`; importing registers them with LIBERO and robosuite.

Sizes are in metres.
"""

from pathlib import Path

import numpy as np
from libero.libero.envs.base_object import register_object
from libero.libero.envs.robots.mounted_panda import MountedPanda
from robosuite.models.grippers import GRIPPER_MAPPING
from robosuite.models.grippers.panda_gripper import PandaGripper
from robosuite.models.objects import BoxObject, CylinderObject, MujocoXMLObject
from robosuite.robots import ROBOT_CLASS_MAPPING
from robosuite.robots.single_arm import SingleArm

from envs.libero.blocks.tasks import CUBE_SIZE, TABLE_HEIGHT

_YAW_RANGE = (-0.12, 0.12)  # radians
_FREE_JOINT = "default"


class _Block(BoxObject):
    """A wooden block that LIBERO can place on a region of the table."""

    half_size = (CUBE_SIZE / 2,) * 3
    colour = (0.5, 0.5, 0.5)
    category = "block"
    friction = 1.2  # sliding

    def __init__(self, name: str, joints=_FREE_JOINT):
        super().__init__(
            name=name,
            size=list(self.half_size),
            rgba=[*self.colour, 1.0],
            density=300.0,
            friction=[self.friction, 0.01, 0.001],
            solref=[0.015, 1.0],
            joints=joints,
        )
        _add_libero_properties(self, self.category)


@register_object
class RedCube(_Block):
    """A red cube."""

    colour = (0.85, 0.08, 0.08)
    category = "red_cube"


@register_object
class BlueCube(_Block):
    """A blue cube."""

    colour = (0.08, 0.20, 0.90)
    category = "blue_cube"


@register_object
class GreenCube(_Block):
    """A green cube."""

    colour = (0.05, 0.60, 0.12)
    category = "green_cube"


@register_object
class YellowCube(_Block):
    """A yellow cube."""

    colour = (0.95, 0.80, 0.05)
    category = "yellow_cube"


@register_object
class PurpleBlock(_Block):
    """A low, wide block to stack on."""

    half_size = (0.032, 0.032, 0.018)
    colour = (0.48, 0.12, 0.62)
    category = "purple_block"


@register_object
class OrangeBar(_Block):
    """A bar too long to be grasped from above with the fingers along its length; it is pushed."""

    half_size = (0.018, 0.055, 0.018)
    colour = (0.95, 0.42, 0.05)
    category = "orange_bar"
    friction = 0.3

    def __init__(self, name: str, joints=_FREE_JOINT):
        super().__init__(name, joints)
        # MuJoCo takes the larger friction of two geoms unless one has priority; with that of table and
        # fingers, a bar that tilts by a degree wedges itself between them.
        for geom in self._obj.iter("geom"):
            geom.set("priority", "1")


class _Disc(CylinderObject):
    half_size = (0.055, 0.006)
    colour = (0.5, 0.5, 0.5)
    category = "disc"

    def __init__(self, name: str, joints=None):
        super().__init__(name=name, size=list(self.half_size), rgba=[*self.colour, 1.0], density=800.0, joints=joints)
        _add_libero_properties(self, self.category)


@register_object
class WhitePlate(_Disc):
    """A flat white plate, fixed to the table."""

    colour = (0.97, 0.97, 0.97)
    category = "white_plate"


@register_object
class CyanTray(_Disc):
    """A flat cyan tray, fixed to the table."""

    colour = (0.10, 0.75, 0.80)
    category = "cyan_tray"


@register_object
class OpenBox(MujocoXMLObject):
    """An open wooden box, fixed to the table."""

    def __init__(self, name: str, joints=None):
        super().__init__(
            str(Path(__file__).with_name("open_box.xml")),
            name=name,
            joints=joints,
            obj_type="all",
            duplicate_collision_geoms=False,
        )
        _add_libero_properties(self, "open_box")


def _add_libero_properties(model, category: str) -> None:
    model.category_name = category
    model.rotation = _YAW_RANGE
    model.rotation_axis = "z"
    model.object_properties = {"vis_site_names": {}}


class BlocksGripper(PandaGripper):
    """Panda gripper that starts open and takes 2.5 instead of 8 control steps to travel its range."""

    def __init__(self, idn: int = 0):
        super().__init__(idn=idn)
        self.current_action = np.array([1.0, -1.0])

    @property
    def init_qpos(self):
        return np.array([0.04, -0.04])

    @property
    def speed(self) -> float:
        """Change of the normalised finger command per simulation step."""
        return 0.08


class MountedBlocksPanda(MountedPanda):
    """Panda bolted to the table (no pedestal), gripper 14.5 cm above the middle of the workspace."""

    @property
    def default_mount(self):
        return None

    @property
    def default_gripper(self):
        return "BlocksGripper"

    @property
    def base_xpos_offset(self):
        return {"table": lambda table_length: (0.0 - table_length / 2, 0, TABLE_HEIGHT)}

    @property
    def init_qpos(self):
        # Grip site at x = -3 cm, y = 0, 14.5 cm above the table, pointing down.
        return np.array([0.0, 0.1098, 0.0, -2.5016, 0.0, 2.6114, np.pi / 4])


GRIPPER_MAPPING["BlocksGripper"] = BlocksGripper
ROBOT_CLASS_MAPPING["MountedBlocksPanda"] = SingleArm
