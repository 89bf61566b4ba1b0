"""What is shipped with a job: the code in a folder, without data, runs or secrets."""

from __future__ import annotations

import fnmatch
import logging
import re
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

from adar_ray.errors import AdarError, counted, one_line

logger = logging.getLogger(__name__)

_NAMED = 10  # of what is left out
MAX_BYTES = 100_000_000  # Ray keeps them in the memory of the head
_MACHINERY = (".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".*_cache", "*.egg-info", "node_modules")
_SECRETS = (
    *(".env", ".env.*", "*.env", ".envrc", "*.tfvars"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.token"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", "secrets", ".secrets", "credentials"),
    *("*.netrc", ".pypirc", ".npmrc", "pip.conf", ".pgpass", "kubeconfig", "service?account*.json"),
    *(".git-credentials", ".htpasswd", ".s3cfg", ".boto", ".databrickscfg", "rclone.conf"),
    *("secrets.*", "credentials.*"),
)
# A file that is named after what it holds, such as gcp-key.json; not code or text about it, such as token.py.
_SECRET_FILE = re.compile(
    r"((.*[-_.])?(secrets?|credentials?|token|passwords?|passwd|(access|account|api|aws|gcp|private|secret|"
    r"service|ssh)[-_]?keys?)|key)"
    r"(\.(txt|json|ya?ml|toml|ini|cfg|conf))?"
)
# Each makes a folder one that adar-ray has written. A run has no metrics before its first epoch is over.
_MARKS = (
    ("dataset.json",),
    *(("config.yaml", name) for name in ("metrics.jsonl", "progress.json", "lease.json")),
    ("config.yaml", "checkpoints/[0-9]*-[0-9]*/state.json"),
    *(("plan.json", name) for name in ("comparison.json", "lease.json", "runs/*/config.yaml")),
    ("plan.json", "tuning/*/search.yaml"),
    ("search.yaml", "trials"),
    ("published.json",),
    ("_recommendations.json",),
    ("export.json", "items.parquet"),
)


def files_to_ship(folder: Path) -> list[Path]:
    """The files to ship, relative to the folder, sorted.

    Skips what git ignores, environments and caches, files named like secrets, links out of the folder, and
    everything that adar-ray has written, such as datasets and runs, which is recognized by its files. Says
    what looked like that or like secrets, as it may be code that the job needs.
    """
    listed = sorted(path for path in _listed(folder) if not _matches(path, _MACHINERY))
    secret = [path for path in listed if _is_secret(path)]
    found = [path for path in listed if not _is_secret(path)]
    parents = {parent for path in found for parent in path.parents}
    stored = {parent for parent in parents if _is_stored(folder / parent)}
    outermost = sorted(path for path in stored if not stored.intersection(path.parents))
    _say_left_out(folder, "file", "may be secret", secret)
    _say_left_out(folder, "folder", "adar-ray has written", outermost)
    inside = folder.resolve()
    return [
        path
        for path in found
        if not stored.intersection(path.parents)
        and (folder / path).is_file()
        and (folder / path).resolve().is_relative_to(inside)
    ]


def _say_left_out(folder: Path, what: str, why: str, paths: list[Path]) -> None:
    if paths:
        named = ", ".join(map(str, paths[:_NAMED])) + (", ..." if len(paths) > _NAMED else "")
        logger.warning("ship %s: leaves out %s that %s: %s", folder, counted(len(paths), what), why, named)


def pack(folder: Path, archive: Path) -> None:
    """Zip the files to ship. The same files give the same bytes, which Ray uploads once.

    Raises:
        AdarError: there are no files, they are too large, or the folder is a home or a disk.
    """
    if not folder.is_dir():
        raise AdarError(f"ship {folder}: there is no such folder")
    if folder.resolve() in (Path.home().resolve(), Path(folder.anchor)):
        raise AdarError(f"ship {folder}: is a home folder or a whole disk; ship the folder of a project")
    files = files_to_ship(folder)
    for path in files:
        try:
            path.as_posix().encode()
        except UnicodeEncodeError:
            raise AdarError(
                f"ship {folder}: the name of {path.as_posix()!r} is not UTF-8; rename it"
            ) from None
    sizes = {path: (folder / path).stat().st_size for path in files}
    if not files:
        raise AdarError(f"ship {folder}: contains nothing to ship")
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise AdarError(
            f"ship {folder}: {sum(sizes.values()) / 1e6:,.0f} MB is more than the {MAX_BYTES / 1e6:,.0f} MB "
            f"that a job can ship; the largest file is {largest}: add what is not code to .gitignore"
        )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in files:
            entry = zipfile.ZipInfo(path.as_posix())
            entry.external_attr = ((folder / path).stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(entry, (folder / path).read_bytes())


def _listed(folder: Path) -> list[Path]:
    """The files that git tracks or would add; all files if this is not a git repository.

    Raises:
        AdarError: git is missing, or refuses the repository, so that nobody knows what it ignores.
    """
    inside = folder.resolve()
    if not any((parent / ".git").exists() for parent in (inside, *inside.parents)):
        return [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        git = subprocess.run(command, capture_output=True, check=False)
        reason = git.stderr.decode(errors="replace") if git.returncode else None
    except OSError:
        reason = "git is not installed"
    if reason is not None:
        raise AdarError(
            f"ship {folder}: is in a git repository, but git does not say which files it ignores "
            f"({one_line(reason)}); make `git status` work there"
        )
    return [Path(name) for name in git.stdout.decode(errors="surrogateescape").split("\0") if name]


def _is_secret(path: Path) -> bool:
    return _matches(path, _SECRETS) or _SECRET_FILE.fullmatch(path.name.lower()) is not None


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a part of a path matches one of the patterns."""
    return any(
        fnmatch.fnmatchcase(part.lower(), pattern)
        for part in PurePosixPath(path).parts
        for pattern in patterns
    )


def _is_stored(folder: Path) -> bool:
    """Whether adar-ray has written the folder: a dataset or a run, say."""
    return any(all(_has(folder, name) for name in mark) for mark in _MARKS)


def _has(folder: Path, name: str) -> bool:
    return any(folder.glob(name)) if "*" in name else (folder / name).exists()  # many times as fast
