"""A WSGI application for gunicorn: answers with the hash of what was posted, and with so many bytes as asked for."""

import hashlib


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    size = int(environ["QUERY_STRING"] or 0)
    start_response("200 OK", [("X-Hash", hashlib.sha256(body).hexdigest()), ("Content-Length", str(size))])
    return [b"z" * size]
