"""From a command line to a run: the only code next to train.py that uses Hydra and OmegaConf."""
