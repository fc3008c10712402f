from nrp_core.engines.py_sim import PySimEngineScript


class Script(PySimEngineScript):
    """Gymnasium's cart with a pole on it.

    Its datapacks: action (0 pushes it left, 1 right) comes in; state goes out: position, speed, angle and speed of the
    angle (m, rad, s) and whether the episode is over. The weights of the policy are kept here for act.py.
    """

    def initialize(self):
        for name in ("action", "state", "weights"):
            self._registerDataPack(name)
        self._setDataPack("weights", {"values": [0.0, 0.0, 0.0, 0.0]})
        self.begin(seed=self._config["EngineExtraConfigs"]["seed"])

    def begin(self, seed=None):
        self.sim_manager.reset(seed=seed)
        self._setDataPack("action", {"push": 0})
        self.tell()

    def runLoop(self, timestep_ns):
        if not self._getDataPack("state")["over"]:
            self.sim_manager.run_step(self._getDataPack("action")["push"], timestep_ns)
            self.tell()

    def tell(self):
        now = self.sim_manager.get_model_all_properties("Property")
        self._setDataPack("state", {"observation": now["observation"], "over": now["doneFlag"] or now["truncated"]})

    def reset(self):
        self.begin()

    def shutdown(self):
        pass
