"""Running the application: listening, warming up, stopping, and what happens when it dies."""

import asyncio
import gc
import socket
from types import FrameType

import uvicorn

from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.errors import InvalidConfigError
from dia_ort.memory import give_back_memory
from dia_ort.serve.app import create_app
from dia_ort.serve.service import CHUNKS_AT_ONCE, Service, log
from dia_ort.serve.settings import ServerSettings

DIED = 70
"""The exit code when the engine has died, ``EX_SOFTWARE`` of sysexits.h."""

_WATCH_SECONDS = 0.2
_TIDY_SECONDS = 5.0
_DYING_SECONDS = 2.0  # in which /health tells of it, and requests get their errors
_CLOSING_SECONDS = 5  # for answers to leave, after the drain
_MOST_CONNECTIONS = 4096
_MOST_MESSAGE = 1 << 20  # bytes, of a WebSocket


def run(dia: Dia, settings: ServerSettings) -> int:
    """Serve until a signal tells to stop, in a process that does nothing else.

    Args:
        dia: The model.
        settings: The server's.

    Returns:
        The exit code: 0, or :data:`DIED`.

    Raises:
        InvalidConfigError: The address cannot be listened on.
    """
    server = SpeechServer(dia, settings)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through it would hold everybody up
    return server.run_until_stopped()


class SpeechServer:
    """Listens from the start, answers from :meth:`run_until_stopped` on.

    Args:
        dia: The model.
        settings: The server's. Those of logging are the caller's business.

    Attributes:
        service: What it serves.
        host: That it listens on.
        port: That it listens on.

    Raises:
        InvalidConfigError: The address cannot be listened on.
    """

    def __init__(self, dia: Dia, settings: ServerSettings) -> None:
        self._listener = _listen(settings)
        self.host, self.port = self._listener.getsockname()[:2]
        self.service = Service(_open_engine(dia, settings), settings)
        config = uvicorn.Config(
            create_app(self.service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
            ws_max_size=_MOST_MESSAGE,
        )
        self._server = _Uvicorn(config, self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._exit_code = 0

    def run_until_stopped(self) -> int:
        """Answer requests, until :meth:`stop` or a signal, and to the end of those that run.

        Returns:
            0, or :data:`DIED`.
        """
        return asyncio.run(self._run())

    def stop(self) -> None:
        """Take no more requests, and end when the open ones have. The second call ends at once.

        For any thread.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        parts = (self._warm_up(), self._watch(), self._tidy(), self._drain())
        tasks = [asyncio.create_task(part) for part in parts]
        log.info("listening", extra={"host": self.host, "port": self.port})
        try:
            await self._server.serve([self._listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self.service.engine.close, drain=False)
            self.service.close()
        log.info("stopped", extra={"exit_code": self._exit_code})
        return self._exit_code

    async def _warm_up(self) -> None:
        try:
            await self.service.warm_up()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody can be served
            log.exception("the warm-up failed")
            self._die(repr(error))
        else:
            log.info(self.service.state)

    async def _watch(self) -> None:
        """Notice when the engine, which has a thread of its own, dies."""
        while (failure := self.service.engine.failure) is None:  # noqa: ASYNC110
            await asyncio.sleep(_WATCH_SECONDS)
        self._die(str(failure))

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            await self.service.in_a_thread(give_back_memory)

    def _die(self, reason: str) -> None:
        """Say so, and end; both who warm up and who watch may notice."""
        if self.service.state == "dead":
            return
        log.critical("the engine is dead", extra={"reason": reason})
        self.service.state, self.service.reason = "dead", reason
        self._exit_code = DIED
        asyncio.get_running_loop().call_later(_DYING_SECONDS, self._close)

    def _stop(self) -> None:
        if self._told.is_set():
            self._server.force_exit = True
            self._close()
        self._told.set()

    async def _drain(self) -> None:
        """When told, let open requests finish, and give up those that do not in time."""
        await self._told.wait()
        service = self.service
        timeout = service.settings.drain_timeout
        log.info("draining", extra={"open": service.admission.num_open, "timeout": timeout})
        if service.state != "dead":
            service.state = "draining"
        try:
            await asyncio.wait_for(service.admission.idle.wait(), timeout)
        except TimeoutError:
            log.warning("gave up requests", extra={"open": service.admission.num_open})
            await asyncio.to_thread(service.engine.close, drain=False)
        self._close()

    def _close(self) -> None:
        """Close the connections, and end."""
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the server, and so exits with its code and not with theirs."""

    def __init__(self, config: uvicorn.Config, server: SpeechServer) -> None:
        super().__init__(config)
        self._speech_server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._speech_server.stop()


def _open_engine(dia: Dia, settings: ServerSettings) -> Engine:
    """An engine with room for all chunks of all requests that are admitted."""
    requests = settings.max_batch + settings.max_queue
    return Engine(
        dia,
        max_batch=settings.max_batch,
        max_queue=requests * CHUNKS_AT_ONCE,
        memory_limit=settings.memory_limit,
    )


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = (settings.host, settings.port)
    both = settings.host == "::" and socket.has_dualstack_ipv6()  # everybody, by IPv4 too
    try:
        listener = socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidConfigError(
            f"cannot listen on {settings.host}, port {settings.port} ({reason}): stop what does, "
            "or take another --host or --port"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # else what was sent last waits for such a client
        milliseconds = round((settings.send_timeout + _CLOSING_SECONDS) * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener
