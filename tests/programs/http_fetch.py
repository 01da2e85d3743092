"""Fetches a URL three times and compares the SHA-256 of what came."""

import hashlib
import sys
import urllib.request

url, wanted = sys.argv[1:]
for _ in range(3):
    with urllib.request.urlopen(url, timeout=10) as response:
        got = hashlib.sha256(response.read()).hexdigest()
    if got != wanted:
        sys.exit(f"got {got}, wanted {wanted}")
