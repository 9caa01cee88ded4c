"""An HTTP server for the lab: GET gives the files of a folder, PUT answers with the SHA-256 of what was sent.

    http-server.py FOLDER PORT      logs a line per request to stdout: client's address, method, path, status
"""

import functools
import hashlib
import http.server
import socket
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        digest = hashlib.sha256()
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            if not piece:
                return
            digest.update(piece)
            left -= len(piece)
        answer = (digest.hexdigest() + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_request(self, code="-", size="-"):
        client = self.client_address[0].removeprefix("::ffff:")
        print(client, self.command, self.path, int(code), flush=True)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


folder, port = sys.argv[1], int(sys.argv[2])
Server(("::", port), functools.partial(Handler, directory=folder)).serve_forever()
