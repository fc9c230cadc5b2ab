"""Author: the user, machine and flow run that make a change, for the records of promotions and labels."""

import getpass
import os
import socket
from contextvars import ContextVar
from dataclasses import dataclass

current_run: ContextVar[str] = ContextVar("run", default="")
"""ID of the flow run that this code is part of; empty outside of flow runs."""


@dataclass(frozen=True)
class Author:
    """Author of a change. What is unknown, as in the records of earlier versions, is empty.

    Args:
        user: name of the user whose process made the change.
        host: name of the machine.
        run: ID of the flow run; empty for a command without Prefect.
    """

    user: str = ""
    host: str = ""
    run: str = ""

    def __str__(self) -> str:
        return " in run ".join(filter(None, (self.user and f"{self.user}@{self.host}", self.run)))


UNKNOWN = Author()
"""Author of the changes that earlier versions of Digits recorded."""


def this_author() -> Author:
    """Return the author of the changes that this process makes."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return Author(user, socket.gethostname(), current_run.get())
