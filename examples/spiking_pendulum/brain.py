import numpy as np
from nrp_core.engines.python_json import EngineScript

MEMBRANE = 0.020  # s, time constant
REFRACTORY = 0.002  # s
SYNAPSE = 0.005  # s, time constant
RATES = (100.0, 200.0)  # Hz, of a neuron at what it likes best

ANGLE_RANGE = 0.25  # rad, and
SPEED_RANGE = 1.5  # rad/s, that the population represents as 1

STIFFNESS = 35.0  # N m/rad: the torque that the population is to compute is -(STIFFNESS angle + DAMPING speed)
DAMPING = 9.0  # N m s/rad


class Script(EngineScript):
    """A controller of leaky integrate-and-fire neurons, made by the Neural Engineering Framework's principles.

    Each neuron is driven by angle and speed along a preferred direction; what all spikes together say, low-passed by
    the synapses and weighted by decoders that were fitted to the neurons' tuning curves, is the torque.
    (Eliasmith and Anderson, Neural Engineering, MIT Press 2003.)
    """

    def initialize(self):
        extra = self._config["EngineExtraConfigs"]
        self.number = extra["neurons"]
        rng = np.random.default_rng(extra["seed"])
        direction = rng.uniform(0, 2 * np.pi, self.number)
        self.encoders = np.stack([np.cos(direction), np.sin(direction)], axis=1)
        threshold_at = rng.uniform(-0.95, 0.95, self.number)  # along the preferred direction
        drive = 1 / (1 - np.exp((REFRACTORY - 1 / rng.uniform(*RATES, self.number)) / MEMBRANE))
        self.gain = (drive - 1) / (1 - threshold_at)
        self.bias = 1 - self.gain * threshold_at
        self.decoders = self.fitted_decoders(rng)
        self._registerDataPack("senses")
        self._registerDataPack("command")
        self.start()

    def start(self):
        self.voltage = np.zeros(self.number)
        self.resting = np.zeros(self.number)  # s, that each neuron still is refractory
        self.torque = 0.0
        self.rate = 0.0
        self._setDataPack("senses", {"angle": 0.0, "speed": 0.0})
        self._setDataPack("command", {"torque": 0.0, "rate": 0.0})

    def currents(self, states):
        """What drives each neuron, for states (angle, speed), scaled, of shape (..., 2)."""
        return self.gain * (states @ self.encoders.T) + self.bias

    def fitted_decoders(self, rng):
        """The weights, N m a spike per second, with which the neurons' rates come nearest to the torque wanted."""
        states = rng.uniform(-1, 1, (2000, 2))
        current = np.maximum(self.currents(states), 1 + 1e-9)
        rates = np.where(current > 1 + 1e-6, 1 / (REFRACTORY - MEMBRANE * np.log1p(-1 / current)), 0.0)
        wanted = -(STIFFNESS * ANGLE_RANGE * states[:, 0] + DAMPING * SPEED_RANGE * states[:, 1])
        noise = 0.1 * rates.max()
        return np.linalg.solve(rates.T @ rates + len(states) * noise**2 * np.eye(self.number), rates.T @ wanted)

    def runLoop(self, timestep_ns):
        step = timestep_ns * 1e-9
        senses = self._getDataPack("senses")
        state = np.array([senses["angle"] / ANGLE_RANGE, senses["speed"] / SPEED_RANGE])
        spikes = self.spikes(self.currents(state), step)
        keep = np.exp(-step / SYNAPSE)
        self.torque = keep * self.torque + (1 - keep) * float(self.decoders @ spikes) / step
        self.rate = keep * self.rate + (1 - keep) * float(spikes.mean()) / step
        self._setDataPack("command", {"torque": self.torque, "rate": self.rate})

    def spikes(self, current, step):
        """Let the neurons integrate for a step; which of them spike."""
        awake = np.clip(step - self.resting, 0, step)
        self.resting = np.maximum(self.resting - step, 0)
        self.voltage += (current - self.voltage) * -np.expm1(-awake / MEMBRANE)
        spikes = self.voltage > 1
        self.voltage[spikes] = 0
        self.resting[spikes] = REFRACTORY
        np.maximum(self.voltage, 0, out=self.voltage)
        return spikes

    def reset(self):
        self.start()

    def shutdown(self):
        pass
