"""What is shipped with a job: the code in a folder, without data, runs or secrets."""

from __future__ import annotations

import fnmatch
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

from adar_ray.errors import AdarError, one_line

MAX_BYTES = 100_000_000  # Ray keeps them in the memory of the head
_MACHINERY = (".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".*_cache", "*.egg-info", "node_modules")
_SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.token", "auth_token"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker"),
    *(".netrc", ".pypirc", ".npmrc", "pip.conf", ".pgpass", "kubeconfig", "service?account*.json"),
    *("secrets", ".secrets", "secrets.*", "credentials", "credentials.*", "*_credentials.json"),
)
_MARKS = ({"dataset.json"}, {"config.yaml", "metrics.jsonl"}, {"search.yaml", "trials"}, {"published.json"})


def files_to_ship(folder: Path) -> list[Path]:
    """The files to ship, relative to the folder, sorted.

    Skips what git ignores, environments and caches, files named like secrets, links out of the folder, and
    every dataset, run and search, which are recognized by their files.
    """
    found = sorted(path for path in _listed(folder) if not _is_skipped(path))
    stored = {parent for path in found for parent in path.parents if _is_stored(folder / parent)}
    inside = folder.resolve()
    return [
        path
        for path in found
        if not stored.intersection(path.parents)
        and (folder / path).is_file()
        and (folder / path).resolve().is_relative_to(inside)
    ]


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


def _is_skipped(path: Path) -> bool:
    return any(
        fnmatch.fnmatchcase(part.lower(), pattern)
        for part in PurePosixPath(path).parts
        for pattern in (*_MACHINERY, *_SECRETS)
    )


def _is_stored(folder: Path) -> bool:
    """Whether a folder is a dataset, a run, a search, or names the published run."""
    return any(all((folder / name).exists() for name in mark) for mark in _MARKS)
