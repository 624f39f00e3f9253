"""The configuration of a command line, for benchmarks that train or measure without train.py."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of `python train.py OVERRIDES`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])
