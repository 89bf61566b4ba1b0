"""The `adar-ray` command line. One file holds one group of commands; `main.py` puts them together."""
