"""How a command line becomes a run. Only this folder and train.py use Hydra and OmegaConf."""
