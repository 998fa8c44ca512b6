"""Offscreen frames of one MuJoCo model."""

import atexit
import dataclasses
import functools
import os
import weakref
from typing import Any

import mujoco
import numpy as np

_CATEGORY_ALL = int(mujoco.mjtCatBit.mjCAT_ALL)


@dataclasses.dataclass(frozen=True)
class RenderStyle:
    """What is drawn. On a CPU the cost of a frame is per triangle, hardly per pixel.

    Attributes:
        shadows, reflections: Each of them draws the scene once more.
        multisamples: Samples per pixel, 0 for no antialiasing.
        geom_groups: Geom groups that are visible (robosuite: 0 collision, 1 visual).
        mirrored: Left and right are swapped, as in OpenGL's upside-down frames after a rotation by 180 degrees.
    """

    shadows: bool = True
    reflections: bool = True
    multisamples: int = 4
    geom_groups: tuple[int, ...] = (1,)
    mirrored: bool = False


LIGHT_STYLE = RenderStyle(shadows=False, reflections=False, multisamples=0)


_LIVE_RENDERERS: weakref.WeakSet = weakref.WeakSet()


@functools.cache
def _close_renderers_at_exit() -> None:
    # Called after the first context is made: the GL library then has its own exit handler, and this one,
    # registered later, runs before it. Each exit would otherwise print tracebacks about contexts of a
    # display that is gone.
    atexit.register(lambda: [renderer.close() for renderer in list(_LIVE_RENDERERS)])


def _make_gl_context(size: int) -> Any:
    # `mujoco.GLContext` is chosen when mujoco is first imported, perhaps before MUJOCO_GL was set.
    backend = os.environ.get("MUJOCO_GL", "egl").lower()
    if backend == "egl":
        from mujoco.egl import GLContext
    elif backend == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        GLContext = mujoco.GLContext
    context = GLContext(size, size)
    _close_renderers_at_exit()
    return context


class FrameRenderer:
    """Renders frames of a model; several renderers may live in one process, each with its own GL context."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, max_size: int, style: RenderStyle):
        """Builds the GL context.

        Args:
            model, data: What is rendered.
            max_size: Largest height and width in pixels that will be asked for.
            style: What is drawn.
        """
        self._model, self._data, self._mirrored = model, data, style.mirrored
        model.vis.global_.offwidth = model.vis.global_.offheight = max_size
        model.vis.quality.offsamples = style.multisamples
        self._gl = _make_gl_context(max_size)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = style.shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = style.reflections
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[list(style.geom_groups)] = 1
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        _LIVE_RENDERERS.add(self)

    def render(self, camera: str, size: int) -> np.ndarray:
        """Returns a frame as the eye sees it (first row on top), uint8 [size, size, 3].

        The frame shows the kinematics that `data` holds: call `mujoco.mj_kinematics` after a change of state.
        """
        # Another renderer of this process may have made its own context current.
        self._gl.make_current()
        self._camera.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        viewport = mujoco.MjrRect(0, 0, size, size)
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, self._perturb, self._camera, _CATEGORY_ALL, self._scene
        )
        mujoco.mjr_render(viewport, self._scene, self._context)
        frame = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, viewport, self._context)
        return np.ascontiguousarray(frame[::-1, ::-1] if self._mirrored else frame[::-1])

    def close(self) -> None:
        """Frees the GL objects; the renderer cannot be used afterwards."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
