"""What every model has to beat: recommenders that are computed instead of trained, one file each."""
