"""A project's folder and its ``covey.toml``."""

from cloud.config.fleet import (
    DeviceSettings,
    ProjectSettings,
    RegionSettings,
    ServeSettings,
    Settings,
)
from cloud.config.hooks import HookSettings
from cloud.config.model import (
    NETWORKS,
    BudgetSettings,
    FinetuneSettings,
    GateSettings,
    ModelSettings,
    NumberSettings,
    PrecomputeSettings,
    StepSettings,
    TriggerSettings,
    VariantSettings,
)
from cloud.config.project import CONFIG_FILE, Project, find_project, load_project
from cloud.config.rollout import CanarySettings, RegionPlan, RolloutSettings, ShadowSettings
from cloud.config.table import Params, Table

__all__ = [
    "CONFIG_FILE",
    "NETWORKS",
    "BudgetSettings",
    "CanarySettings",
    "DeviceSettings",
    "FinetuneSettings",
    "GateSettings",
    "HookSettings",
    "ModelSettings",
    "NumberSettings",
    "Params",
    "PrecomputeSettings",
    "Project",
    "ProjectSettings",
    "RegionPlan",
    "RegionSettings",
    "RolloutSettings",
    "ServeSettings",
    "Settings",
    "ShadowSettings",
    "StepSettings",
    "Table",
    "TriggerSettings",
    "VariantSettings",
    "find_project",
    "load_project",
]
