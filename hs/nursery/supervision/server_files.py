"""Finds the configuration files of all processes of a server in a directory."""

from pathlib import Path

from hs.nursery.supervision.process_files import ProcessFiles
from hs.settings.documents import Document, read_documents
from hs.settings.errors import Origin, Problem, SettingsError
from hs.settings.generate import CONFIG_NAME
from hs.settings.sections.workers import MAIN, MAIN_APP

WORKER_FOLDER = "workers"


def find_processes(folder: Path, shared: Path | None = None) -> list[ProcessFiles]:
    """Return the processes that a directory configures, main first, then in order of file names.

    The shared file is `shared`, or homeserver.yaml, or else the only file with `server_name`. Every
    other file with `worker_app`, in the directory or in its subdirectory `workers`, belongs to a
    process; one with the `worker_app` of the main process belongs to that.

    Raises: SettingsError.
    """
    candidates = [
        path
        for place in (folder, folder / WORKER_FOLDER)
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.suffix in (".yaml", ".yml") and path.is_file()
    ]
    documents = {path: read_documents([path]) for path in candidates}
    shared = shared or _shared_file(folder, documents)
    main_files = [shared]
    workers: list[ProcessFiles] = []
    problems: list[Problem] = []
    for path, document in documents.items():
        app = document.values.get("worker_app")
        if path == shared:
            continue
        if app is None:
            problems += _lacks_app(document)
            continue
        if app == MAIN_APP:
            main_files.append(path)
            continue
        name = str(document.values.get("worker_name") or app)
        workers.append(ProcessFiles(name=name, files=(shared, path)))
    if problems:
        raise SettingsError(problems)
    return [ProcessFiles(name=MAIN, files=tuple(main_files)), *workers]


def _lacks_app(document: Document) -> list[Problem]:
    """Return what is wrong with a file that looks like one of a worker, and would be left out."""
    return [
        Problem(
            key=key,
            message="is set, but without worker_app this is not the file of a worker",
            remedy="add `worker_app: synapse.app.generic_worker`, or remove the file",
            origin=document.origins[key],
        )
        for key in ("worker_name", "worker_listeners")
        if key in document.values
    ][:1]


def _shared_file(folder: Path, documents: dict[Path, Document]) -> Path:
    if folder / CONFIG_NAME in documents:
        return folder / CONFIG_NAME
    shared = [path for path, document in documents.items() if "server_name" in document.values]
    if len(shared) == 1:
        return shared[0]
    raise SettingsError(
        [
            Problem(
                key="",
                message=f"contains no {CONFIG_NAME}",
                remedy=f"name a directory with {CONFIG_NAME} and the files of workers",
                origin=Origin(file=folder),
            )
        ]
    )
