"""Goal predicates of `libero_blocks`, registered with LIBERO's predicate table on import."""

from libero.libero.envs.predicates import VALIDATE_PREDICATE_FN_DICT
from libero.libero.envs.predicates.base_predicates import BinaryAtomic, UnaryAtomic

from envs.libero.blocks.tasks import TABLE_HEIGHT

LIFT_HEIGHT = 0.045  # metres between the bottom of the object and the table
_RESTING_HEIGHT = 0.012  # metres; an object held in the air is not at its goal


class Lifted(UnaryAtomic):
    """`(Lifted object)`: held by both fingers with its bottom at least `LIFT_HEIGHT` above the table."""

    def __call__(self, arg1) -> bool:
        return _bottom(arg1) >= LIFT_HEIGHT and arg1.env.is_grasped(arg1.object_name)


class At(BinaryAtomic):
    """`(At object region)`: centre inside the region of the table, and resting on the table."""

    def __call__(self, arg1, arg2) -> bool:
        return _bottom(arg1) <= _RESTING_HEIGHT and bool(arg2.check_ontop(arg1))


def _bottom(state) -> float:
    """Height of an object's bottom above the table in metres (upright objects)."""
    half_height = -state.env.get_object(state.object_name).bottom_offset[2]
    return state.get_geom_state()["pos"][2] - half_height - TABLE_HEIGHT


VALIDATE_PREDICATE_FN_DICT.update({"lifted": Lifted(), "at": At()})
