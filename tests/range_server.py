"""A server of files, also of parts of them, in a process of its own: GDAL waits for answers without letting
other threads of Python run.
"""

import http.server
import os
import re
import subprocess
import sys
from contextlib import contextmanager


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves the working folder."""

    def do_GET(self):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if found is None or not os.path.isfile(path):
            super().do_GET()
            return
        size, first = os.path.getsize(path), int(found[1])
        last = min(int(found[2] or size - 1), size - 1)
        with open(path, "rb") as file:
            file.seek(first)
            content = file.read(last + 1 - first)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder):
    """The address of a server of a folder, while the block runs."""
    command = [sys.executable, os.path.abspath(__file__)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
