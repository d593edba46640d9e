"""openpi's policy protocol over websockets, both ways: a server of policies, and a client."""
