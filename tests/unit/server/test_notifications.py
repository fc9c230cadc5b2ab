"""Addresses of notifications."""

import pytest
from apprise import Apprise

from digits.errors import UsageError
from digits.server.notifications import apprise_address, is_address


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise's to mend
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hooks.slack.com/services/T000/B000/xyz", "https://hooks.slack.com/services/T000/B000/xyz"),
        ("https://example.com/hook", "jsons://example.com/hook"),
        ("http://127.0.0.1:8080/hook?key=a%20b&c=d", "json://127.0.0.1:8080/hook?-key=a+b&-c=d"),
        ("https://me:word@example.com/", "jsons://me:word@example.com/"),
        ("smtp://mail.example.com?from=a@b.com&to=d@e.com", "mailto://mail.example.com?from=a@b.com&to=d@e.com"),
        (
            "smtps://u:p@mail.example.com?from=a@b.com&to=d@e.com",
            "mailtos://u:p@mail.example.com?from=a@b.com&to=d@e.com",
        ),
        (
            "mailto://u:p@mail.example.com?from=a@b.com&to=d@e.com",
            "mailto://u:p@mail.example.com?from=a@b.com&to=d@e.com",
        ),
    ],
)
def test_an_address_is_one_that_apprise_understands(url: str, expected: str) -> None:
    assert apprise_address(url) == expected
    service = Apprise().instantiate(expected)
    assert service, expected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("xmpp://user:hidden@example.com", "the scheme 'xmpp'"),
        ("mailto:hidden@example.com", "no host"),
        ("mailto://hidden@mail.example.com", "without `from` and `to`"),
        ("https://[hidden", "an invalid address"),
        ("hidden", "no host"),
        ("", "no host"),
    ],
)
def test_another_address_is_refused_without_being_shown(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match="expected an address such as mailto://") as error:
        apprise_address(url)
    assert problem in str(error.value)
    assert "hidden" not in str(error.value)


def test_off_and_no_value_are_no_addresses() -> None:
    assert not is_address(None)
    assert not is_address("off")
    assert is_address("https://example.com/hook")
