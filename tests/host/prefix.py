"""A proxy that serves a server under a path of its own, as those in front of rented machines do."""

import asyncio
import threading

PREFIX = "/user/7/proxy"


class PrefixProxy:
    """Passes what is asked under PREFIX on to a server, WebSockets too, and answers 404 to the rest."""

    def __init__(self, port: int) -> None:
        self._behind, self._loop = port, asyncio.new_event_loop()
        self.url = ""

    def __enter__(self) -> "PrefixProxy":
        started = threading.Event()

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{PREFIX}"
            started.set()

        def run() -> None:
            self._loop.run_until_complete(start())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection, so that nothing has to be read but its head."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, version = head.split("\r\n", 1)[0].split(" ")
            if not path.startswith(f"{PREFIX}/"):
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            lines = head.split("\r\n")[1:-2]
            if not any(line.lower().startswith("upgrade:") for line in lines):
                lines = [line for line in lines if not line.lower().startswith("connection:")] + [
                    "Connection: close"
                ]
            behind, onward = await asyncio.open_connection("127.0.0.1", self._behind)
            request = [f"{method} {path.removeprefix(PREFIX)} {version}", *lines, "", ""]
            onward.write("\r\n".join(request).encode("latin-1"))
            await asyncio.gather(_pass(reader, onward), _pass(behind, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the browser let go
        finally:
            writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
