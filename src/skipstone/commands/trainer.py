"""What Lightning's Trainer takes and a training here must not be given: each with the setting in its place.

A training runs trainer.max_steps steps, each on training.batch_size images drawn from all of the data, and its
checkpoints, callbacks and trackers are the package's own. Whatever would end it early, show it other data or collide
with these is refused by name. Everything else that Lightning takes passes, as +trainer.<name>=<value>.
"""

from typing import Any

_LENGTH = "a training has a length in steps: set trainer.max_steps"
_DATA = "a training sees all of its data: choose it with dataset, and its amount with trainer.max_steps"
_VALIDATION = "when to validate is trainer.val_check_interval, and on how much evaluation.training.images"
_NEVER = "it changes nothing here: leave it out"

REFUSED = {
    "max_epochs": _LENGTH,
    "min_epochs": _LENGTH,
    "min_steps": _LENGTH,
    "max_time": f"{_LENGTH}; one that is interrupted goes on with the same command",
    "fast_dev_run": "for a run of seconds choose experiment=smoke",
    "limit_train_batches": _DATA,
    "overfit_batches": _DATA,
    "limit_val_batches": _VALIDATION,
    "check_val_every_n_epoch": _VALIDATION,
    "num_sanity_val_steps": _VALIDATION,
    "limit_test_batches": _NEVER,
    "limit_predict_batches": _NEVER,
    "reload_dataloaders_every_n_epochs": _NEVER,
    "enable_model_summary": _NEVER,
    "enable_autolog_hparams": _NEVER,
    "barebones": "a training needs its checkpoints: set trainer.enable_progress_bar=false and logger=none",
    "enable_checkpointing": "how often to save is trainer.checkpoint_every_n_steps",
    "model_registry": "models are stored below paths.outputs",
    "logger": "the tracker is a group of its own: choose logger=wandb, csv or none",
    "callbacks": "a training has its own: write what you need against the Python API",
    "plugins": "precision is trainer.precision",
    "sync_batchnorm": "one GPU trains: leave it out",
    "use_distributed_sampler": "the devices share each batch of training.batch_size already: leave it out",
}


def require_ours(trainer: dict[str, Any]) -> None:
    """Raise ValueError where the trainer settings have what is refused."""
    for name in trainer:
        if name in REFUSED:
            raise ValueError(f"trainer.{name} is not allowed: {REFUSED[name]}.")
