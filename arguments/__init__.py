"""Every setting once: frozen dataclasses that become command-line flags (tyro) and the run's `config.json`."""

from arguments.cli import load_config, parse_flags, save_config
from arguments.settings import (
    DataSettings,
    ModelSettings,
    OptimizationSettings,
    Protocol,
    RefinementSettings,
    RunSettings,
    TestSettings,
    TrainSettings,
)

__all__ = ["DataSettings", "ModelSettings", "OptimizationSettings", "Protocol", "RefinementSettings", "RunSettings",
           "TestSettings", "TrainSettings", "load_config", "parse_flags", "save_config"]
