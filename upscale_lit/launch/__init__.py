"""The way from a command line to a run. Only this folder and train.py use Hydra and OmegaConf."""
