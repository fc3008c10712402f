import base64
import io
import math

from nrp_core.engines.py_sim import PySimEngineScript
from PIL import Image  # package pillow

SIDES = ("left", "right")


class Script(PySimEngineScript):
    """The robot: four wheels, a camera, and two eyes, 50 degrees to either side, that see how bright the ball is.

    Its datapacks: wheels (rad/s) come in; light (0 to 1), pose (metres and degrees) and picture (a JPEG) go out.
    """

    def initialize(self):
        extra = self._config["EngineExtraConfigs"]
        self.camera = extra["camera"]
        self.between_pictures_ns = round(extra["picture_every_s"] * 1e9)
        for name in ("wheels", "light", "pose", "picture"):
            self._registerDataPack(name)
        self.begin()

    def begin(self):
        self._setDataPack("wheels", {"left": 0.0, "right": 0.0})
        self._setDataPack("picture", {"jpeg": self.take_picture()})
        self.look()

    def runLoop(self, timestep_ns):
        wheels = self._getDataPack("wheels")
        self.sim_manager.run_step([wheels["left"], wheels["left"], wheels["right"], wheels["right"]], timestep_ns)
        self.look()
        if self.between_pictures_ns and self._time_ns % self.between_pictures_ns == 0:
            self._setDataPack("picture", {"jpeg": self.take_picture()})

    def look(self):
        x, y, _ = self.sim_manager.get_model_property("chassis", "body_xpos")
        ahead_x, _, _, ahead_y, *_ = self.sim_manager.get_model_property("chassis", "body_xmat")
        ball = self.sim_manager.get_model_property("ball", "body_xpos")
        self._setDataPack(
            "pose",
            {
                "x": x,
                "y": y,
                "heading": math.degrees(math.atan2(ahead_y, ahead_x)),
                "to_ball": math.hypot(ball[0] - x, ball[1] - y),
            },
        )
        self._setDataPack("light", {side: self.brightness(f"{side}_eye", ball) for side in SIDES})

    def brightness(self, eye, ball):
        """From 0 to 1: less from aside, nothing from behind, and less from afar."""
        to_ball = ball - self.sim_manager.get_model_property(eye, "site_xpos")
        view = self.sim_manager.get_model_property(eye, "site_xmat")[0::3]
        distance = math.hypot(*to_ball)
        return max(0.0, float(view @ to_ball) / distance) / (1.0 + 0.02 * distance**2)

    def take_picture(self):
        """A JPEG. JSON has no bytes: they go into it in base 64."""
        if not self.between_pictures_ns:
            return ""
        jpeg = io.BytesIO()
        Image.fromarray(self.sim_manager.render(self.camera, width=160, height=120)).save(jpeg, "JPEG", quality=85)
        return base64.b64encode(jpeg.getvalue()).decode()

    def reset(self):
        self.sim_manager.reset()
        self.begin()

    def shutdown(self):
        pass
