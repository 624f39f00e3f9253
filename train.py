"""Train one stage: python train.py stage=128to256. All options: python train.py --help."""

from omegaconf import DictConfig

from upscale_lit.launch import sweep
from upscale_lit.launch.build import build_data, build_module, build_trainer
from upscale_lit.launch.entry import command
from upscale_lit.launch.publish import publish_run
from upscale_lit.launch.run import running
from upscale_lit.launch.start import find_start
from upscale_lit.training.fit import fit, load, measure


@command  # Hydra composes cfg from conf/ and the command line
def main(cfg: DictConfig) -> None:
    """Execute one run, which may be a job of a sweep."""
    if sweep.finished(cfg):
        return
    with running(cfg) as run:  # sets up the folder, lock, log and signals; reports a user's mistake in one sentence
        start = find_start(run)  # from a checkpoint, weights, earlier stages, or nothing
        data = build_data(cfg, start)
        module = build_module(cfg, start, data)
        trainer = build_trainer(run, start, module, data)
        if cfg.train:
            fit(trainer, module, data, start.checkpoint)  # leaves the best weights in the module
        elif start.checkpoint:
            load(module, start.checkpoint)
        measured = measure(trainer, module, data)
        publish_run(run, start, trainer, module, data, measured)


if __name__ == "__main__":
    main()
