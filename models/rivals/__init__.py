"""What the world model is measured against, trained on the same data: see `registry.train_rival`."""
