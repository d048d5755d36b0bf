"""Where servers listen."""

import pytest

from core import address
from core.errors import UserError


def test_a_free_port_is_told_as_it_is_and_a_taken_one_refused():
    with address.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port and address.url(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"127.0.0.1:{port} is taken by another program; choose another --port"):
            address.listening("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot be used"):
        address.listening("192.0.2.1", 0)  # of nobody's machine
