"""Prints what the image installs: the requirements of adar-ray, and those of the extras in EXTRAS.

EXTRAS=serve,mlflow python3 requirements.py pyproject.toml
"""

import os
import sys

import tomllib

OFFERED = ("serve", "export", "mlflow", "wandb")

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = os.environ.get("EXTRAS", "").replace(",", " ").split()
for name in extras:
    if name not in OFFERED:
        sys.exit(f"EXTRAS={','.join(extras)}: there is no {name}; give some of {','.join(OFFERED)}")
requirements = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
print(*requirements, sep="\n")
