"""
TLS on the port of the API: a certificate with its key, and whose certificates callers must show. Read again once they
change, so that a rotation needs no restart: each handshake is handed to the newest context.
"""

import ssl
import time
from collections.abc import Callable

from gateway.config import TlsConfig
from gateway.watched import Unreadable, Watched


def server_context(tls: TlsConfig, clock: Callable[[], float] = time.monotonic) -> ssl.SSLContext | None:
    """Return what the port speaks TLS with, None for plain HTTP; raises Unreadable."""
    if tls.cert is None or tls.key is None:
        return None
    paths = [path for path in (tls.cert, tls.key, tls.client_ca) if path is not None]
    newest = Watched(paths, lambda: _context(tls), clock=clock)

    def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = newest.current()

    first = _context(tls)
    first.sni_callback = hand_over  # called for every handshake, also where no name is sent
    return first


def _context(tls: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(str(tls.cert), tls.key, password="")  # a key with a password fails, and does not ask
    except (OSError, ValueError) as err:
        raise Unreadable(f"cannot use the certificate {tls.cert} with the key {tls.key}: {_why(err)}") from None
    if tls.client_ca is not None:
        _ask_callers(context, tls)
    return context


def _ask_callers(context: ssl.SSLContext, tls: TlsConfig) -> None:
    """
    Take only callers with a certificate of these authorities.

    TLS 1.3 without tickets: a resumed session would not show its certificate again, to authorities that have changed.
    """
    try:
        context.load_verify_locations(tls.client_ca)
    except (OSError, ValueError) as err:
        raise Unreadable(f"cannot read authorities from {tls.client_ca}: {_why(err)}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0


def _why(err: Exception) -> str:
    return getattr(err, "reason", None) or getattr(err, "strerror", None) or str(err)
