"""Pictures of a MuJoCo model, rendered off screen."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np


class Pictures:
    """Renders a model, for as many sizes as are asked for; each keeps an OpenGL context.

    Without shadows and anti-aliasing: where no graphics card helps, these cost ten times as much as all the rest.

    Args:
        model: MuJoCo's MjModel; from here on its off-screen buffer is as large as the largest picture.
        data: MuJoCo's MjData.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._model = model
        self._data = data
        self._renderers: dict[tuple[int, int], Any] = {}
        model.vis.quality.offsamples = 0

    def take(self, camera: str, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The present as a camera of the model sees it: RGB, of shape (height, width, 3).

        Raises:
            ValueError: there is no such camera, or no such size.
            RuntimeError: nothing here can render off screen.
        """
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if index < 0:
            names = ", ".join(filter(None, (self._model.camera(each).name for each in range(self._model.ncam))))
            raise ValueError(f"the model has no camera {camera!r}; there are: {names or 'none'}")
        if width < 1 or height < 1:
            raise ValueError(f"a picture has at least one pixel, not {width} x {height}")
        renderer = self._renderers.get((width, height)) or self._renderer(width, height)
        renderer.update_scene(self._data, index)
        picture: np.ndarray[Any, np.dtype[np.uint8]] = renderer.render()
        return picture

    def close(self) -> None:
        """Free the OpenGL contexts."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def _renderer(self, width: int, height: int) -> Any:
        buffer = self._model.vis.global_
        buffer.offwidth = max(buffer.offwidth, width)
        buffer.offheight = max(buffer.offheight, height)
        try:
            renderer = mujoco.Renderer(self._model, height, width)
        except Exception as error:  # as many kinds as there are ways to OpenGL
            raise RuntimeError(
                f"no pictures can be rendered here: {error}. Without a display they need EGL"
                " (Debian and Ubuntu: apt-get install libegl1 libopengl0 libgl1-mesa-dri)"
            ) from error
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._renderers[width, height] = renderer
        return renderer
