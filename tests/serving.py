"""A server of archives on this machine, so that downloads in tests run through the real tools."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import make_archive


class Server:
    """Serves a folder, and remembers the files that were asked for."""

    def __init__(self, folder: Path):
        asked = self.asked = []

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                if (
                    "Method" not in self.headers
                ):  # torchvision looks for redirections first, with a GET as well
                    asked.append(self.path)
                super().do_GET()

            def log_message(self, *args):
                pass

        folder.mkdir()
        self.folder = folder
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def archive(self, content: Path, name: str = "set", form: str = "gztar") -> tuple[str, str]:
        """Packs what lies in a folder: its address and MD5."""
        file = Path(make_archive(str(self.folder / name), form, content))
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        return f"http://127.0.0.1:{self.http.server_port}/{file.name}", digest


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a new folder, as long as the block runs."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
