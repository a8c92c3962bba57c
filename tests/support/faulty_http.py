"""A real web server on loopback that serves plans, and cuts, stalls, lies and redirects."""

import gzip
import http.server
import threading
from collections import Counter

__all__ = ["FaultyServer"]


class FaultyServer(http.server.ThreadingHTTPServer):
    """Serves `files` by path; `fault` says what goes wrong with all of them.

    Attributes:
        files: content by path.
        fault: the name of a method of the handler, or None.
        asked: how often each path was asked for.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.fault = None
        self.asked = Counter()
        self.stop = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/plans"

    def handle_error(self, request, client_address):
        """Clients hang up; that is what they are here for."""

    def close(self):
        self.stop.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):  # the name that http.server looks for
        self.server.asked[self.path] += 1
        content = self.server.files.get(self.path)
        if self.server.fault:
            getattr(self, self.server.fault)(content or b"nothing")
        elif content is None:
            self.answer(b"", status=404)
        else:
            self.answer(content)

    def answer(self, content, *, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self):
        self.close_connection = True

    # --- faults: each takes what should have been served ---

    def cut(self, content):
        self.answer(content[: len(content) // 2], length=len(content))
        self.hang_up()

    def cut_headers(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        self.hang_up()

    def close_at_once(self, _):
        self.hang_up()

    def short(self, content):
        self.answer(content[:-100])

    def long(self, content):
        self.answer(content + bytes(100))

    def flip(self, content):
        middle = len(content) // 2
        self.answer(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])

    def empty(self, _):
        self.answer(b"")

    def no_content(self, _):
        self.send_response(204)
        self.end_headers()

    def html(self, _):
        self.answer(b"<html><body>Please sign in</body></html>", Content_Type="text/html")

    def tebibyte(self, content):
        self.answer(content, length=1 << 40)
        self.hang_up()

    def negative_length(self, content):
        self.answer(content, length=-5)
        self.hang_up()

    def no_length(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)
        self.hang_up()

    def gzipped(self, content):
        self.answer(gzip.compress(content), Content_Encoding="gzip")

    def stall(self, _):
        self.server.stop.wait(30)
        self.hang_up()

    def stall_in_body(self, content):
        self.answer(content[:100], length=len(content))
        self.server.stop.wait(30)
        self.hang_up()

    def drip(self, content):
        self.answer(b"", length=len(content))
        for at in range(len(content)):
            self.wfile.write(content[at : at + 1])
            self.wfile.flush()
            if self.server.stop.wait(0.05):
                break
        self.hang_up()

    def drip_headers(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for at in range(1000):
            self.wfile.write(b"X-%d: 1\r\n" % at)
            self.wfile.flush()
            if self.server.stop.wait(0.05):
                break
        self.hang_up()

    def redirect(self, content):
        if self.path.startswith("/moved/"):
            self.answer(content)
        else:
            self.answer(b"", status=302, Location=self.path.replace("/plans/", "/moved/"))

    def redirect_in_a_circle(self, _):
        self.answer(b"", status=302, Location=self.path)

    def redirect_to_a_file(self, _):
        self.answer(b"", status=302, Location="file:///etc/passwd")

    def redirect_nowhere(self, _):
        self.answer(b"", status=302, Location="http://127.0.0.1:1/")

    def bad_request(self, _):
        self.answer(b"", status=400)

    def unauthorized(self, _):
        self.answer(b"", status=401)

    def forbidden(self, _):
        self.answer(b"", status=403)

    def too_many(self, _):
        self.answer(b"", status=429)

    def broken(self, _):
        self.answer(b"", status=500)

    def unavailable(self, _):
        self.answer(b"", status=503, Retry_After="3600")
