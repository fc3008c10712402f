import csv

import numpy as np
from nrp_core.engines.py_sim import PySimEngineScript


class Script(PySimEngineScript):
    """The robot: four wheels, and two eyes that look 35 degrees to either side and see how bright the ball is."""

    def initialize(self):
        self._registerDataPack("light")
        self._registerDataPack("pose")
        self._registerDataPack("wheels")
        self._setDataPack("wheels", {"left": 0.0, "right": 0.0})
        self.track = open("track.csv", "w", newline="")
        self.rows = csv.writer(self.track)
        self.rows.writerow(["time_s", "x_m", "y_m", "left_light", "right_light"])
        self.look()

    def runLoop(self, timestep_ns):
        wheels = self._getDataPack("wheels")
        self.sim_manager.run_step([wheels["left"], wheels["left"], wheels["right"], wheels["right"]], timestep_ns)
        self.look()

    def look(self):
        here = self.sim_manager.get_model_property("chassis", "body_xpos")
        ball = self.sim_manager.get_model_property("ball", "body_xpos")
        light = {side: self.brightness(f"{side}_eye", ball) for side in ("left", "right")}
        self._setDataPack("light", light)
        self._setDataPack("pose", {"x": here[0], "y": here[1], "distance": float(np.linalg.norm((ball - here)[:2]))})
        self.rows.writerow([f"{self._time_ns * 1e-9:.2f}", *(f"{value:.3f}" for value in (*here[:2], *light.values()))])

    def brightness(self, eye, ball):
        to_ball = ball - self.sim_manager.get_model_property(eye, "site_xpos")
        distance = np.linalg.norm(to_ball)
        view = self.sim_manager.get_model_property(eye, "site_xmat").reshape(3, 3)[:, 0]
        return float(max(0.0, view @ to_ball / distance) / (1.0 + 0.02 * distance**2))

    def shutdown(self):
        self.track.close()
