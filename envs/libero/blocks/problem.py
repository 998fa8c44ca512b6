"""LIBERO problem class of `libero_blocks`: a bare table and a Panda drawn by its collision hulls."""

import xml.etree.ElementTree as ET
from pathlib import Path

import libero.libero.envs.bddl_base_domain as bddl_domain
from libero.libero.envs import TASK_MAPPING
from libero.libero.envs.regions import REGION_SAMPLERS, TableRegionSampler
from robosuite.models.arenas import TableArena
from robosuite.models.tasks import ManipulationTask

from envs.libero.blocks import objects, predicates  # noqa: F401  (register themselves with LIBERO)

# Seconds; ten simulation steps per control step at 20 Hz, where robosuite's default is 25 of 2 ms.
MODEL_TIMESTEP = 0.005

_ROBOT_PREFIXES = ("robot0_", "gripper0_")
# Only these parts of the robot reach the table and the objects.
_TOUCHING_PARTS = ("hand", "finger")
_ARM_RGBA, _HAND_RGBA, _FINGER_RGBA = "0.90 0.90 0.92 1", "0.55 0.56 0.60 1", "0.10 0.10 0.12 1"
_HIDDEN_GROUP = "4"


# LIBERO's decorator returns None, so the class is taken from the table that it filled.
class Libero_Blocks_Manipulation(TASK_MAPPING["libero_tabletop_manipulation"]):
    """Tabletop problem with an arena of our own; BDDL files name it LIBERO_Blocks_Manipulation."""

    def __init__(self, bddl_file_name: str, *args, **kwargs):
        self._contact_ids: dict[object, frozenset[int]] = {}
        super().__init__(bddl_file_name, *args, **kwargs)

    def _load_model(self):
        # Skips the parent's scene, whose meshes and textures belong to LIBERO's asset pack.
        super(bddl_domain.BDDLBaseDomain, self)._load_model()
        robot_model = self.robots[0].robot_model
        robot_model.set_base_xpos(robot_model.base_xpos_offset["table"](self.table_full_size[0]))
        arena = TableArena(
            table_full_size=self.table_full_size,
            table_offset=self.workspace_offset,
            table_friction=(0.6, 0.005, 0.0001),
            xml=str(Path(__file__).with_name("arena.xml")),
        )
        arena.set_origin([0, 0, 0])
        self.z_offset = 0.0  # fixtures stand on the table, not in it
        self._load_fixtures_in_arena(arena)
        self._load_objects_in_arena(arena)
        self._load_sites_in_arena(arena)
        self._generate_object_state_wrapper()
        self._setup_placement_initializer(arena)
        self.objects = list(self.objects_dict.values())
        self.fixtures = list(self.fixtures_dict.values())
        self.model = ManipulationTask(
            mujoco_arena=arena,
            mujoco_robots=[robot.robot_model for robot in self.robots],
            mujoco_objects=self.objects + self.fixtures,
        )

    def _initialize_sim(self, xml_string=None):
        super()._initialize_sim(_lighten(xml_string or self.model.get_xml()))
        self._contact_ids.clear()

    def initialize_time(self, control_freq):
        super().initialize_time(control_freq)
        self.model_timestep = MODEL_TIMESTEP

    def check_contact(self, geoms_1, geoms_2=None) -> bool:
        """As robosuite's, on geom ids instead of names: LIBERO's predicates call it at each control step."""
        first = self._geom_ids(geoms_1)
        second = None if geoms_2 is None else self._geom_ids(geoms_2)
        for a, b in self.sim.data._data.contact.geom.tolist():
            if (a in first and (second is None or b in second)) or (b in first and (second is None or a in second)):
                return True
        return False

    def is_grasped(self, object_name: str) -> bool:
        """Whether both fingers touch the object."""
        model = self.get_object(object_name)
        fingers = self.robots[0].gripper.important_geoms
        return all(self.check_contact(fingers[side], model) for side in ("left_finger", "right_finger"))

    def _geom_ids(self, geoms) -> frozenset[int]:
        key = geoms if isinstance(geoms, str) else tuple(geoms) if isinstance(geoms, list) else geoms.name
        if key not in self._contact_ids:
            names = [geoms] if isinstance(geoms, str) else geoms if isinstance(geoms, list) else geoms.contact_geoms
            self._contact_ids[key] = frozenset(self.sim.model.geom_name2id(name) for name in names)
        return self._contact_ids[key]


def _lighten(xml_string: str) -> str:
    """Returns the model with the robot drawn by its collision hulls and without the meshes that nobody sees.

    robosuite looks up visual geoms by name, so they stay as tiny hidden boxes. Inertias of the robot are
    explicit in its XML and do not change.
    """
    root = ET.fromstring(xml_string)
    root.find("option").set("timestep", str(MODEL_TIMESTEP))
    for geom in root.iter("geom"):
        name = geom.get("name", "")
        if not name.startswith(_ROBOT_PREFIXES):
            continue
        if geom.get("group") == "0":
            geom.set("group", "1")
            if not any(part in name for part in _TOUCHING_PARTS):
                geom.set("contype", "0")
                geom.set("conaffinity", "0")
            rgba = _FINGER_RGBA if "finger" in name else _HAND_RGBA if "hand" in name else _ARM_RGBA
            geom.set("rgba", rgba)
        else:
            for attribute in ("mesh", "material", "quat", "pos"):
                geom.attrib.pop(attribute, None)
            geom.set("type", "box")
            geom.set("size", "0.001 0.001 0.001")
            geom.set("group", _HIDDEN_GROUP)
    asset = root.find("asset")
    for tag in ("mesh", "material"):
        used = {geom.get(tag) for geom in root.iter("geom")}
        for element in asset.findall(tag):
            if element.get("name") not in used:
                asset.remove(element)
    return ET.tostring(root, encoding="unicode")


bddl_domain.register_problem(Libero_Blocks_Manipulation)
REGION_SAMPLERS["libero_blocks_manipulation"] = {"table": TableRegionSampler}
