"""Notifications: the Prefect block that sends them, by e-mail, to Slack, or to another webhook.

The block holds the address, which is secret: it contains a password or a token. Prefect encrypts it. Prefect's block
for Slack passes addresses of other services to the library Apprise, which also sends e-mail.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from digits.errors import UsageError
from digits.server.automations import automations_by_name

BLOCK = "digits-notifications"
"""Name of the block."""
BLOCK_TYPE = "slack-webhook"
OFF = "off"
"""Value of `--notify` that turns notifications off."""
_APPRISE_SCHEMES = {"http": "json", "https": "jsons", "smtp": "mailto", "smtps": "mailtos"}
"""Scheme that Apprise uses for a scheme of an address; the same for others."""
_ACCEPTED = (
    "an address such as mailto://USER:PASSWORD@SMTP-SERVER:587?from=A@B&to=C@D, https://hooks.slack.com/services/..., "
    "or the https:// address of a webhook"
)


def apprise_address(url: str) -> str:
    """Return an address in the form in which Prefect's block passes it to Apprise.

    Raises:
        UsageError: if notifications cannot be sent to the address. The message does not contain it.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise UsageError(f"--notify: found an invalid address, expected {_ACCEPTED}") from error
    if host and host.startswith("hooks.slack"):
        return url
    scheme = _APPRISE_SCHEMES.get(parts.scheme, parts.scheme)
    if scheme not in ("json", "jsons", "mailto", "mailtos") or not host:
        found = f"the scheme {parts.scheme!r}" if host else "no host"
        raise UsageError(f"--notify: found an address with {found}, expected {_ACCEPTED}")
    query = dict(parse_qsl(parts.query))
    if scheme.startswith("mailto"):
        if not {"from", "to"} <= query.keys():
            raise UsageError(f"--notify: found an e-mail address without `from` and `to`, expected {_ACCEPTED}")
        return urlunsplit(parts._replace(scheme=scheme))
    # Apprise sends on the parameters whose names begin with a minus sign.
    return urlunsplit(
        parts._replace(scheme=scheme, query=urlencode({f"-{name}": value for name, value in query.items()}))
    )


def read_block(client: Any) -> str | None:
    """Return the identifier of the block that sends notifications; None if there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return str(client.read_block_document_by_name(BLOCK, BLOCK_TYPE, include_secrets=False).id)
    except ObjectNotFound:
        return None


def is_address(notify: str | None) -> bool:
    """Check whether a value of `--notify` is an address.

    Raises:
        UsageError: if it is one to which notifications cannot be sent.
    """
    return notify is not None and notify != OFF and bool(apprise_address(notify))


def set_notifications(client: Any, notify: str, automations: Iterable[str]) -> None:
    """Create or replace the block that sends notifications, or remove it together with the automations that use it.

    Args:
        client: client of the Prefect server.
        notify: address, or `off`.
        automations: names of the automations that send notifications.

    Raises:
        UsageError: if notifications cannot be sent to the address.
    """
    from apprise import Apprise
    from prefect.blocks.notifications import SlackWebhook
    from pydantic import SecretStr

    if notify != OFF:
        if not Apprise().add(apprise_address(notify)):
            raise UsageError(f"--notify: found an address that is not complete, expected {_ACCEPTED}")
        SlackWebhook(url=SecretStr(apprise_address(notify))).save(BLOCK, overwrite=True)
        return
    for one in automations_by_name(client, automations).values():
        client.delete_automation(one.id)
    if block := read_block(client):
        client.delete_block_document(UUID(block))
