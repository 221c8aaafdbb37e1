"""PostgreSQL: the server, connections, our tables, and what workers tell each other through them."""
