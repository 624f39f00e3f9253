"""Train a 2x image upscaler, stage by stage, and use it."""
