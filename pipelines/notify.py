"""Notifications: a log line, and a message to the webhook that LONGTAIL_WEBHOOK names (Slack, Teams and others)."""

import json
import logging
import os
import urllib.request
from urllib.parse import urlsplit

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_logger

WEBHOOK = "LONGTAIL_WEBHOOK"
PATIENCE = 10.0  # seconds for the webhook


def tell(text: str, logger: "logging.Logger | logging.LoggerAdapter[logging.Logger] | None" = None) -> None:
    """Log a text and post it as JSON {"text": …}; a webhook that fails costs a warning, never the work it reports."""
    log = logger or get_logger("longtail")
    log.info(text)
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    try:
        if urlsplit(address).scheme not in ("http", "https"):
            raise ValueError("it is no http address")
        body = json.dumps({"text": text}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except (OSError, ValueError) as error:  # the address itself may hold a secret: it is not said
        log.warning(f"The message was not sent: {WEBHOOK} did not take it ({type(error).__name__}: {error}).")


def tell_failure(flow: "Flow[..., object]", flow_run: FlowRun, state: "State[object]") -> None:
    """Report that a flow run failed, crashed or was cancelled; a hook of Prefect's."""
    why = f": {state.message}" if state.message else "."
    tell(f"{flow.name} ({flow_run.name}) ended as {state.name}{why}")
