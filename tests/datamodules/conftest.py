import urllib.error
import urllib.request

import pytest


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def online(monkeypatch):
    """Serve files from a dictionary of URLs; ``served.cut`` ends a file after so many bytes with an error."""

    class Served(dict):
        cut = None
        asked = ()

    served = Served()

    class Response:
        def __init__(self, url, content):
            self.url, self.length, self.content, self.place = url, len(content), content, 0

        def read(self, size=-1):
            if served.cut is not None and self.place >= served.cut:
                raise ConnectionResetError(104, "Connection reset by peer")
            end = len(self.content) if size < 0 else min(self.place + size, len(self.content))
            if served.cut is not None:
                end = min(end, served.cut)
            chunk, self.place = self.content[self.place : end], end
            return chunk

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    def urlopen(request, *args, **kwargs):
        url = request if isinstance(request, str) else request.full_url
        served.asked += (url,)
        if url not in served:
            raise urllib.error.HTTPError(url, 404, "Not Found", None, None)
        return Response(url, served[url])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return served
