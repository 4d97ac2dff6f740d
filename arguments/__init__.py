"""Every setting once: frozen dataclasses that become command-line flags (tyro) and the run's `config.json`."""

from arguments.cli import load_config, parse_flags, save_config
from arguments.settings import (
    ONE_CAMERA,
    SEVERAL_CAMERAS,
    DataSettings,
    ModelSettings,
    OptimizationSettings,
    Protocol,
    RefinementSettings,
    RunSettings,
    TestSettings,
    TrainSettings,
)

__all__ = ["ONE_CAMERA", "SEVERAL_CAMERAS", "DataSettings", "ModelSettings", "OptimizationSettings", "Protocol",
           "RefinementSettings", "RunSettings", "TestSettings", "TrainSettings", "load_config", "parse_flags",
           "save_config"]
