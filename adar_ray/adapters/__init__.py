"""Other libraries' models on our datasets, each an optional extra."""
