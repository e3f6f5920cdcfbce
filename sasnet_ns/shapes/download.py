"""Files from the web: with a progress bar, resumed where they broke off, and never half a file under the final name."""

from __future__ import annotations

from pathlib import Path

from sdf_tools.io.writing import write_atomically

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
_BLOCK = 1 << 16  # what a broken connection can lose at most


class DownloadError(OSError):
    """A file could not be fetched. ``str(error)`` says why in a few words."""


def download(url: str, path: Path, description: str | None = None) -> Path:
    """Fetch ``url`` into ``path``.

    The bytes go to ``path`` + ``.part`` first. If that file is already there, only the rest is asked for (HTTP Range);
    a server that does not know Range starts over.

    Args:
        url: what to fetch.
        path: the final name; its folder is made.
        description: what the progress bar calls it.

    Returns:
        ``path``.

    Raises:
        DownloadError: no connection, a refusal, or fewer bytes than announced; what arrived stays in ``.part``.
    """
    import requests

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        _download_rest(url, partial, description or path.name)
    except requests.RequestException as error:
        raise DownloadError(_reason(error)) from error
    write_atomically(path, partial.replace)
    return path


def _download_rest(url: str, partial: Path, description: str) -> None:
    import requests
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    have = partial.stat().st_size if partial.exists() else 0
    # identity: a transparently decompressed body would not have the length that the header announces.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 and have:
            if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                return  # the part is the whole file already
            partial.unlink()
            raise DownloadError("the part on disk does not belong to the file on the server; it was removed, try again")
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with open(partial, "ab" if have else "wb") as file, Progress(*columns, TimeRemainingColumn()) as progress:
            task = progress.add_task(description, total=total, completed=have)
            for block in response.iter_content(_BLOCK):
                file.write(block)
                progress.advance(task, len(block))
    if total is not None and partial.stat().st_size != total:
        raise DownloadError(f"only {partial.stat().st_size} of {total} bytes arrived; run the command again to resume")


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return "the download failed"
