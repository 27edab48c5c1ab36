"""How much cheaper is retraining? Arms that recycle earlier iterations against arms that do not."""
