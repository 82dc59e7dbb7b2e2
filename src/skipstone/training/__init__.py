"""Training: the LightningModule, its data module and its callbacks."""
